"""Getting a standby in service, or back: creating, starting, preparing it, giving it the epoch."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from services.recovery.actions.tools import Outcomes, Tools, host_of, plan_for, view_of
from services.recovery.domain.effects import ConfirmStandbyLoss, ProvisionStandby
from services.recovery.domain.loss import provider_says_lost, standby_verdict
from services.recovery.domain.state import State
from services.recovery.ports import (
    CredentialError,
    HostUnsuitableError,
    MachineProvider,
    NoCapacityError,
    NoGenerationError,
    Order,
    OutcomeUnknownError,
    ProviderError,
    Rental,
    RentalStatus,
    Sighting,
)
from shared.events import Event
from shared.events.recovery import (
    ProvisionFailed,
    StandbyLost,
    StandbyProvisioned,
    StandbyRestored,
)
from shared.machines import Host, Role


class _LastWords:
    """What the provider last said of a machine that we wait for."""

    said = ""

    def __str__(self) -> str:
        return f"; gce last said: {self.said}" if self.said else ""


async def provision(at: Tools, state: State, effect: ProvisionStandby) -> Outcomes:
    """Create, adopt or revive the standby, prepare it and give it the epoch."""
    words = _LastWords()
    patience = state.policy.ssh_timeout
    try:
        async with asyncio.timeout(patience):
            host = await _machine(at, state, effect, words)
            if host is None:
                return (_gone(at, state, effect),)
            await at.until_answers(host)
            await at.hosts.prepare(host, plan_for(state, Role.STANDBY, effect.epoch))
            generation = await _give_epoch(at, state, effect, host)
    except (TimeoutError, HostUnsuitableError, ProviderError) as error:
        if isinstance(error, OutcomeUnknownError):
            raise
        reason = str(error) or f"the standby did not answer in {patience:g} s{words}"
        return (
            ProvisionFailed(
                workspace=state.workspace,
                epoch=effect.epoch,
                role=Role.STANDBY,
                attempt=effect.attempt,
                stage="credentials" if isinstance(error, CredentialError) else "prepare",
                reason=reason,
                hint=getattr(error, "hint", ""),
            ),
        )
    return (_in_place(at, state, effect, host, generation),)


def _in_place(
    at: Tools, state: State, effect: ProvisionStandby, host: Host, generation: str
) -> Event:
    renew_at = at.now() + timedelta(seconds=at.pace.renewal)
    if effect.again:
        return StandbyRestored(
            workspace=state.workspace,
            epoch=effect.epoch,
            host=host,
            generation=generation,
            renew_at=renew_at,
        )
    return StandbyProvisioned(
        workspace=state.workspace,
        epoch=effect.epoch,
        attempt=effect.attempt,
        host=host,
        host_ca=at.host_ca(state.workspace),
        renew_at=renew_at,
    )


async def _give_epoch(at: Tools, state: State, effect: ProvisionStandby, host: Host) -> str:
    """Give it the epoch; returns the newest generation that it holds, empty when it has none."""
    try:
        promotion = await at.hosts.promote(
            host,
            workspace=state.workspace,
            epoch=effect.epoch,
            serve=effect.serve,
            generation=state.promoting if effect.serve else "",
        )
    except NoGenerationError:
        return ""
    return promotion.generation


# --- the machine -----------------------------------------------------------------------------


async def _machine(
    at: Tools, state: State, effect: ProvisionStandby, words: _LastWords
) -> Host | None:
    """The machine that is to be the standby, running; None when the one to revive is no more."""
    if effect.own is not None:
        return await at.hosts.locate(effect.own)
    cloud = at.provider("gce")
    if effect.revive is None:
        rental = await cloud.provision(_order(at, state, effect))
    else:
        found = await cloud.get(effect.revive.provider_id)
        if found is None:
            return None
        rental = await _shaken(at, state, cloud, found)
    while rental.status is not RentalStatus.RUNNING or rental.address is None:
        words.said = rental.shown
        if rental.status is RentalStatus.STOPPED:
            await cloud.start(rental.provider_id)
        await asyncio.sleep(at.pace.poll)
        seen = await cloud.get(rental.provider_id)
        if seen is None:
            raise NoCapacityError(f"the standby {effect.label} vanished while it was starting")
        rental = seen
    words.said = rental.shown
    return host_of(rental)


def _order(at: Tools, state: State, effect: ProvisionStandby) -> Order:
    spot = state.policy.standby_spot and not effect.on_demand
    return Order(
        label=effect.label,
        role=Role.STANDBY,
        policy=replace(state.policy, standby_spot=spot),
        bootstrap_public_key=at.bootstrap_public_key,
        retried=not at.recovery.intended_here(effect.label),
    )


async def _shaken(at: Tools, state: State, cloud: MachineProvider, rental: Rental) -> Rental:
    """A machine that runs, and did not answer for a whole try, is given a new start."""
    hangs = rental.status is RentalStatus.RUNNING and state.standby.revivals > 0
    if not hangs or await at.hosts.answers(host_of(rental)):
        return rental
    await cloud.stop(rental.provider_id)
    return await cloud.get(rental.provider_id) or rental


def _gone(at: Tools, state: State, effect: ProvisionStandby) -> Event:
    assert effect.revive is not None
    return StandbyLost(
        workspace=state.workspace,
        epoch=effect.epoch,
        machine=effect.revive.id,
        reason=f"{effect.revive.provider} says that the machine is gone",
        gone=True,
        lost_at=at.now(),
    )


# --- is it lost? -----------------------------------------------------------------------------


async def confirm_loss(at: Tools, state: State, effect: ConfirmStandbyLoss) -> Outcomes:
    """Look at the suspected standby ourselves, and ask its provider."""
    host = effect.host
    sighting, (rental, silent) = await asyncio.gather(
        at.hosts.look(host, workspace=state.workspace, epoch=effect.epoch),
        _provider_view(at, state, host),
    )
    event = standby_verdict(
        state, effect, sighting=sighting, rental=rental, provider_silent=silent, now=at.now()
    )
    return (event,)


async def _provider_view(at: Tools, state: State, host: Host) -> tuple[Rental | None, str]:
    """What the provider shows, or why it could not be asked.

    A host of the user's own has none: whoever else answers is the witness that it is not our own
    network that is down.
    """
    if host.provider != "ssh":
        return await view_of(at, host)
    return None, "" if await _anybody_answers(at, state) else "nobody else answers us either"


async def _anybody_answers(at: Tools, state: State) -> bool:
    gpu = state.primary or state.attempt.host
    if gpu is not None:
        seen = await at.hosts.look(gpu, workspace=state.workspace, epoch=state.epoch)
        if seen is Sighting.ANSWERS:
            return True
    for provider in at.providers.values():
        try:
            await provider.find(state.standby.label or state.standby.host.id)  # type: ignore[union-attr]
        except ProviderError:
            continue
        return True
    return False


async def found_lost(at: Tools, state: State, host: Host) -> StandbyLost | None:
    """The loss of a standby that did not do what was asked, if its provider says so by now."""
    if host.provider == "ssh":
        return None
    rental, silent = await view_of(at, host)
    return None if silent else provider_says_lost(state, host, rental, at.now())
