"""Changes of primary: looking at a suspect, promoting, freezing, switching back."""

import asyncio
from datetime import datetime

from services.recovery.actions.standby import found_lost
from services.recovery.actions.tools import Outcomes, Tools, view_of
from services.recovery.domain import rollback
from services.recovery.domain.brake import held
from services.recovery.domain.effects import (
    ConfirmDeath,
    FindGeneration,
    FreezeStandby,
    PromoteStandby,
    SwitchToGpu,
    ThawStandby,
)
from services.recovery.domain.mortality import halt_without_both, only_on_the_gpu
from services.recovery.domain.state import State
from services.recovery.domain.verdict import (
    rests_on_silence,
    verdict,
    without_copy,
    without_standby,
)
from services.recovery.ports import (
    Backend,
    HostError,
    HostUnreachableError,
    NoGenerationError,
    Promotion,
    Rental,
    Sighting,
)
from shared.events.recovery import (
    FailbackCompleted,
    FailoverCompleted,
    FailoverStarted,
    StandbyFrozen,
    StandbyRestored,
    StandbyThawed,
)
from shared.machines import Host


async def confirm_death(at: Tools, state: State, effect: ConfirmDeath) -> Outcomes:
    """Look at the suspected primary ourselves, ask its provider, and look at the standby.

    The standby is to take over, so it must be there; and for a host of the user's own, which no
    provider speaks for, it is the witness that it is not our own network that is down.
    """
    if effect.alone:
        return await _confirm_without_copy(at, state, effect)
    host, standby = effect.host, state.standby.host
    assert standby is not None
    sighting, standing, (rental, silent) = await asyncio.gather(
        at.hosts.look(host, workspace=state.workspace, epoch=effect.epoch),
        at.hosts.look(standby, workspace=state.workspace, epoch=effect.epoch),
        _provider_view(at, host),
    )
    if host.provider == "ssh" and standing is not Sighting.ANSWERS:
        silent = "the standby does not answer us either"
    why_not = ""
    if rests_on_silence(host, sighting=sighting, rental=rental, provider_silent=silent):
        why_not = held(await at.fleet.sightings(), at.fleet.brake)
    event = verdict(
        state,
        effect,
        sighting=sighting,
        rental=rental,
        provider_silent=silent,
        held=why_not,
        now=at.now(),
    )
    if isinstance(event, FailoverStarted) and standing is Sighting.SILENT:
        lost = await found_lost(at, state, standby)
        return (lost or without_standby(state, effect, now=at.now()),)
    return (event,)


async def _confirm_without_copy(at: Tools, state: State, effect: ConfirmDeath) -> Outcomes:
    sighting, (rental, silent) = await asyncio.gather(
        at.hosts.look(effect.host, workspace=state.workspace, epoch=effect.epoch),
        _provider_view(at, effect.host),
    )
    event = without_copy(
        state, effect, sighting=sighting, rental=rental, provider_silent=silent, now=at.now()
    )
    return (event,)


async def _gone_for_good(at: Tools, host: Host) -> bool:
    rental, silent = await _provider_view(at, host)
    return host.provider != "ssh" and rental is None and not silent


async def _provider_view(at: Tools, host: Host) -> tuple[Rental | None, str]:
    return (None, "") if host.provider == "ssh" else await view_of(at, host)


async def find_generation(at: Tools, state: State, effect: FindGeneration) -> Outcomes:
    """Look for the copy to go back to. Nothing is given up, nor tried again, without it."""
    standby = state.standby.host
    if standby is None or rollback.unable(state, at.now()):
        return (rollback.begin(state, effect, (), at.now()),)
    try:
        copies = await at.hosts.copies(standby, workspace=state.workspace, epoch=effect.epoch)
    except HostError as error:
        return (rollback.refused(state, str(error), error.hint or "ask again later"),)
    return (rollback.begin(state, effect, copies, at.now()),)


async def promote(at: Tools, state: State, effect: PromoteStandby) -> Outcomes:
    """Fence the old epoch on the standby, let it serve, and see it through the endpoint."""
    began = at.now()
    # Nobody may write to the old primary while the standby takes over.
    await at.keeper.point(state.endpoint_port, None)
    try:
        promotion = await at.hosts.promote(
            effect.host,
            workspace=state.workspace,
            epoch=effect.epoch,
            serve=True,
            generation=effect.generation,
        )
    except NoGenerationError:
        # Its store is empty, whatever the log believed: that is decided on, not tried again.
        return (StandbyRestored(workspace=state.workspace, epoch=effect.epoch, host=effect.host),)
    except HostUnreachableError:
        if lost := await found_lost(at, state, effect.host):
            return (lost,)
        raise
    await _lead_to(at, state, effect.host, effect.epoch)
    return (
        FailoverCompleted(
            workspace=state.workspace,
            epoch=effect.epoch,
            standby=effect.host.id,
            generation=promotion.generation,
            seconds=(at.now() - began).total_seconds(),
            generation_age_seconds=_age(state, promotion, began),
            damaged=promotion.damaged,
        ),
    )


def _age(state: State, promotion: Promotion, now: datetime) -> float | None:
    """A copy that was compared with the GPU since it was sealed is no older than that."""
    ages = [] if promotion.age_seconds is None else [promotion.age_seconds]
    if state.generation_at is not None and promotion.generation == state.generation:
        ages.append(max(0.0, (now - state.generation_at).total_seconds()))
    return min(ages, default=None)


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
        try:
            await at.hosts.promote(
                effect.standby, workspace=state.workspace, epoch=effect.epoch, serve=False
            )
        except HostUnreachableError:
            if lost := await found_lost(at, state, effect.standby):
                return (lost,)
            raise
    try:
        await _lead_to(at, state, effect.host, effect.epoch)
    except HostUnreachableError:
        if only_on_the_gpu(state) and await _gone_for_good(at, effect.host):
            return (halt_without_both(state),)
        raise
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
