"""Is the primary dead? What follows from our own look at it. Unknown is a third answer."""

from datetime import datetime, timedelta

from services.recovery.domain.effects import ConfirmDeath
from services.recovery.domain.mortality import halt_without_both, only_copy_hint, still_there
from services.recovery.domain.state import State
from services.recovery.domain.world import DEAD, Rental, RentalStatus, Sighting
from shared.events import Event
from shared.events.recovery import FailoverRefused, FailoverStarted
from shared.machines import Host

RECHECK_SECONDS_MAX = 60.0


def verdict(
    state: State,
    look: ConfirmDeath,
    *,
    sighting: Sighting,
    rental: Rental | None,
    provider_silent: str,
    now: datetime,
    held: str = "",
) -> Event:
    """Fail over, or refuse with a reason.

    ``rental`` is what the provider shows now, None when it says that the machine is gone;
    ``provider_silent`` says why it could not be asked and is empty when it answered. ``held``:
    why silence alone is not believed now.
    """
    host, suspicion = look.host, look.suspicion
    evidence = (*suspicion.evidence, f"recovery's own look at {host.address}: {sighting}")
    if not provider_silent and host.provider != "ssh":
        shown = "gone" if rental is None else rental.shown
        evidence += (f"{host.provider} says: {shown}",)
        if rental is None or rental.status in DEAD:
            return _start(
                state, look, f"{host.provider} says that the machine is {shown}", evidence
            )
    if sighting is Sighting.ANSWERS:
        return _answers(state, look)
    if sighting is Sighting.SILENT and not provider_silent and not held:
        return _start(state, look, suspicion.reason, evidence)
    unknown = provider_silent or held or "our own certificate or network is in doubt"
    return FailoverRefused(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=host.id,
        reason=f"unknown is not dead: {unknown}",
        recheck_at=_next_look(state, look, now),
    )


def _answers(state: State, look: ConfirmDeath) -> Event:
    return FailoverRefused(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=look.host.id,
        reason=f"the GPU answers us, although: {look.suspicion.reason}",
    )


def _next_look(state: State, look: ConfirmDeath, now: datetime) -> datetime:
    """What lasts is looked at ever more rarely; the provider's own word when it comes."""
    pause = state.policy.health_interval * 2 ** min(look.suspicion.refusals, 16)
    longest = max(state.policy.health_interval, RECHECK_SECONDS_MAX)
    return now + timedelta(seconds=min(pause, longest))


def rests_on_silence(
    host: Host, *, sighting: Sighting, rental: Rental | None, provider_silent: str
) -> bool:
    """Whether nothing but silence speaks for its death: others are to be looked at then."""
    if sighting is not Sighting.SILENT or provider_silent:
        return False
    if host.provider == "ssh":
        return True  # nobody but the host itself can say anything of it
    return rental is not None and rental.status not in {*DEAD, RentalStatus.LOST}


def _start(state: State, look: ConfirmDeath, reason: str, evidence: tuple[str, ...]) -> Event:
    return FailoverStarted(
        workspace=state.workspace,
        epoch=state.epoch + 1,
        machine=look.host.id,
        reason=reason,
        evidence=evidence,
    )


def without_copy(
    state: State,
    look: ConfirmDeath,
    *,
    sighting: Sighting,
    rental: Rental | None,
    provider_silent: str,
    now: datetime,
) -> Event:
    """A GPU that alone has the data seems dead: halt if it is gone for good, else wait for it."""
    host = look.host
    if sighting is Sighting.ANSWERS:
        return _answers(state, look)
    if rental is None and not provider_silent and host.provider != "ssh":
        return halt_without_both(state)
    shown = provider_silent or (
        f"{host.provider} says: {rental.shown}" if rental else str(sighting)
    )
    return FailoverRefused(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=host.id,
        reason=f"the GPU does not answer ({shown}), and the standby holds no sealed generation: "
        "it is waited for",
        recheck_at=_next_look(state, look, now),
        hint=only_copy_hint(state, host),
    )


def without_standby(state: State, look: ConfirmDeath, *, now: datetime) -> Event:
    """The primary is dead by our own look, and so seems the standby: a failover leads nowhere."""
    return FailoverRefused(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=look.host.id,
        reason="the GPU is dead, and the standby does not answer us either: there is nothing to "
        "fail over to",
        recheck_at=now + timedelta(seconds=state.policy.health_interval),
        hint=f"the standby is looked after by itself; {still_there(look.host)}",
    )
