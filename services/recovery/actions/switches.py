"""Changes of primary: looking at a suspect, promoting, freezing, switching back."""

import asyncio

from services.recovery.actions.tools import Outcomes, Tools
from services.recovery.domain.effects import (
    ConfirmDeath,
    FreezeStandby,
    PromoteStandby,
    SwitchToGpu,
    ThawStandby,
)
from services.recovery.domain.state import State
from services.recovery.domain.verdict import verdict
from services.recovery.ports import Backend, HostUnreachableError, ProviderError, Rental, Sighting
from shared.events.recovery import (
    FailbackCompleted,
    FailoverCompleted,
    StandbyFrozen,
    StandbyThawed,
)
from shared.machines import Host


async def confirm_death(at: Tools, state: State, effect: ConfirmDeath) -> Outcomes:
    """Look at the suspected primary ourselves, and ask its provider."""
    host = effect.host
    sighting, (rental, silent) = await asyncio.gather(
        at.hosts.look(host, workspace=state.workspace, epoch=effect.epoch),
        _provider_view(at, host, state),
    )
    event = verdict(
        state, effect, sighting=sighting, rental=rental, provider_silent=silent, now=at.now()
    )
    return (event,)


async def _provider_view(at: Tools, host: Host, state: State) -> tuple[Rental | None, str]:
    """What the provider shows, or why it could not be asked.

    A host of the user's own has no provider: the standby is the witness that it is not our
    own network that is down.
    """
    if host.provider == "ssh":
        assert state.standby.host is not None
        standby = await at.hosts.look(
            state.standby.host, workspace=state.workspace, epoch=state.epoch
        )
        heard = standby is Sighting.ANSWERS
        return None, "" if heard else "the standby does not answer us either"
    try:
        return await at.provider(host.provider).get(host.provider_id), ""
    except ProviderError as error:
        return None, f"{host.provider} could not be asked: {error}"


async def promote(at: Tools, state: State, effect: PromoteStandby) -> Outcomes:
    """Fence the old epoch on the standby, let it serve, and see it through the endpoint."""
    began = at.now()
    # Nobody may write to the old primary while the standby takes over.
    await at.keeper.point(state.endpoint_port, None)
    promotion = await at.hosts.promote(
        effect.host, workspace=state.workspace, epoch=effect.epoch, serve=True
    )
    await _lead_to(at, state, effect.host, effect.epoch)
    return (
        FailoverCompleted(
            workspace=state.workspace,
            epoch=effect.epoch,
            standby=effect.host.id,
            generation=promotion.generation,
            seconds=(at.now() - began).total_seconds(),
            generation_age_seconds=promotion.age_seconds,
            damaged=promotion.damaged,
        ),
    )


async def _lead_to(at: Tools, state: State, host: Host, epoch: int) -> None:
    """Point the endpoint at ``host`` and see it through the endpoint."""
    backend = Backend(address=host.address, port=host.port)
    await at.keeper.point(state.endpoint_port, backend)
    try:
        async with asyncio.timeout(at.pace.endpoint_patience):
            while not await at.keeper.sees(state.endpoint_port, host, state, epoch):
                await asyncio.sleep(at.pace.endpoint)
    except TimeoutError:
        reason = f"{host.id} does not answer through the endpoint yet"
        raise HostUnreachableError(reason) from None


async def freeze(at: Tools, state: State, effect: FreezeStandby) -> Outcomes:
    """Close the endpoint and end whatever could still write on the standby."""
    await at.keeper.point(state.endpoint_port, None)
    closed_at = at.now()
    await at.hosts.freeze(
        effect.host, workspace=state.workspace, epoch=effect.epoch, timeout=effect.timeout
    )
    return (
        StandbyFrozen(
            workspace=state.workspace,
            epoch=effect.epoch,
            attempt=effect.attempt,
            frozen_at=closed_at,
        ),
    )


async def thaw(at: Tools, state: State, effect: ThawStandby) -> Outcomes:
    """Let people write on the standby again."""
    await at.hosts.thaw(effect.host, workspace=state.workspace, epoch=effect.epoch)
    return (StandbyThawed(workspace=state.workspace, epoch=effect.epoch, attempt=effect.attempt),)


async def switch_to_gpu(at: Tools, state: State, effect: SwitchToGpu) -> Outcomes:
    """Retire the standby, lead the endpoint to the GPU and see it."""
    if effect.standby is not None:
        # The standby's epoch goes first: from here on it takes no orders of the old one.
        await at.hosts.promote(
            effect.standby, workspace=state.workspace, epoch=effect.epoch, serve=False
        )
    await _lead_to(at, state, effect.host, effect.epoch)
    now = at.now()
    frozen_at = state.attempt.frozen_at or now
    return (
        FailbackCompleted(
            workspace=state.workspace,
            epoch=effect.epoch,
            machine=effect.host.id,
            pause_seconds=(now - frozen_at).total_seconds(),
            completed_at=now,
        ),
    )
