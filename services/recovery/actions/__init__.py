"""How each effect is carried out. Every action may run twice, and from its start, after a crash.

An action returns the events that say how it ended. Trouble that passes (HostUnreachableError,
OutcomeUnknownError, EndpointError) is raised, and the driver tries again; trouble that does not
is an event with a reason.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from services.recovery.actions import certificates, fencing, gpu, standby, switches, telling
from services.recovery.actions.tools import Outcomes, Pace, Tools
from services.recovery.domain.effects import (
    AwaitGpu,
    ConfirmDeath,
    ConfirmStandbyLoss,
    Effect,
    Fence,
    FindGeneration,
    FreezeStandby,
    PrepareAdopted,
    PromoteStandby,
    ProvisionStandby,
    RenewHost,
    RentGpu,
    SearchOffers,
    SendNotice,
    SwitchToGpu,
    ThawStandby,
    WatchCandidate,
)
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import State
from shared.machines import WorkspaceName

__all__ = ["Pace", "Tools", "carry_out"]


_ACTIONS: dict[type[Effect], Callable[[Tools, State, Any], Awaitable[Outcomes]]] = {
    ProvisionStandby: standby.provision,
    ConfirmStandbyLoss: standby.confirm_loss,
    RenewHost: certificates.renew,
    PrepareAdopted: gpu.prepare_adopted,
    SearchOffers: gpu.search,
    RentGpu: gpu.rent,
    AwaitGpu: gpu.await_ready,
    WatchCandidate: gpu.watch,
    ConfirmDeath: switches.confirm_death,
    FindGeneration: switches.find_generation,
    PromoteStandby: switches.promote,
    FreezeStandby: switches.freeze,
    ThawStandby: switches.thaw,
    SwitchToGpu: switches.switch_to_gpu,
    Fence: fencing.fence,
    SendNotice: telling.tell,
}


async def carry_out(at: Tools, workspace: WorkspaceName, effect: Effect) -> Outcomes:
    """Do it, under a live term only, and only if it is still owed."""
    at.may_act()
    state = at.recovery.state(workspace)
    if effect not in pending(state):
        return ()
    return await _ACTIONS[type(effect)](at, state, effect)
