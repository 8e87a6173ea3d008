"""How each effect is carried out. Every action may run twice, and from its start, after a crash.

An action returns the events that say how it ended. Trouble that passes (HostUnreachableError,
OutcomeUnknownError, EndpointError) is raised, and the driver tries again; trouble that does not
is an event with a reason.
"""

from collections.abc import Awaitable

from services.recovery.actions import fencing, gpu, standby, switches, telling
from services.recovery.actions.tools import Outcomes, Pace, Tools
from services.recovery.domain.effects import (
    AwaitGpu,
    ConfirmDeath,
    Effect,
    Fence,
    FreezeStandby,
    PrepareAdopted,
    PromoteStandby,
    ProvisionStandby,
    RentGpu,
    SearchOffers,
    SendNotice,
    SwitchToGpu,
    ThawStandby,
    WatchCandidate,
)
from services.recovery.domain.state import State
from shared.machines import WorkspaceName

__all__ = ["Pace", "Tools", "carry_out"]


async def carry_out(at: Tools, workspace: WorkspaceName, effect: Effect) -> Outcomes:
    """Do it, under a live term only."""
    at.may_act()
    return await _action(at, at.recovery.state(workspace), effect)


def _action(at: Tools, state: State, effect: Effect) -> Awaitable[Outcomes]:  # noqa: C901, PLR0912 # flat
    match effect:
        case ProvisionStandby():
            return standby.provision(at, state, effect)
        case PrepareAdopted():
            return gpu.prepare_adopted(at, state, effect)
        case SearchOffers():
            return gpu.search(at, state, effect)
        case RentGpu():
            return gpu.rent(at, state, effect)
        case AwaitGpu():
            return gpu.await_ready(at, state, effect)
        case WatchCandidate():
            return gpu.watch(at, state, effect)
        case ConfirmDeath():
            return switches.confirm_death(at, state, effect)
        case PromoteStandby():
            return switches.promote(at, state, effect)
        case FreezeStandby():
            return switches.freeze(at, state, effect)
        case ThawStandby():
            return switches.thaw(at, state, effect)
        case SwitchToGpu():
            return switches.switch_to_gpu(at, state, effect)
        case Fence():
            return fencing.fence(at, state, effect)
        case SendNotice():
            return telling.tell(at, state, effect)
