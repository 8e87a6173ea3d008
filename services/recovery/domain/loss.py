"""Is the standby lost? What follows from our own look at it. Unknown is a third answer."""

from datetime import datetime, timedelta

from services.recovery.domain.effects import ConfirmStandbyLoss
from services.recovery.domain.state import State
from services.recovery.domain.world import DEAD, Rental, Sighting
from shared.events import Event
from shared.events.recovery import StandbyLossRefused, StandbyLost
from shared.machines import Host


def standby_verdict(
    state: State,
    look: ConfirmStandbyLoss,
    *,
    sighting: Sighting,
    rental: Rental | None,
    provider_silent: str,
    now: datetime,
) -> Event:
    """The standby is lost, or not, or we cannot tell and look again. Arguments as for a primary."""
    host, suspicion = look.host, look.suspicion
    evidence = (*suspicion.evidence, f"recovery's own look at {host.address}: {sighting}")
    if not provider_silent and (dead := provider_says_lost(state, host, rental, now, evidence)):
        return dead
    if sighting is Sighting.ANSWERS:
        reason = f"the standby answers us, although: {suspicion.reason}"
        return _not_lost(state, look, reason, None)
    if sighting is Sighting.SILENT and not provider_silent:
        return StandbyLost(
            workspace=state.workspace,
            epoch=state.epoch,
            machine=host.id,
            reason=suspicion.reason,
            evidence=evidence,
            lost_at=now,
        )
    unknown = provider_silent or "our own certificate or network is in doubt"
    again = now + timedelta(seconds=state.policy.health_interval)
    return _not_lost(state, look, f"unknown is not lost: {unknown}", again)


def provider_says_lost(
    state: State,
    host: Host,
    rental: Rental | None,
    now: datetime,
    evidence: tuple[str, ...] = (),
) -> StandbyLost | None:
    """The loss of a standby by its provider's own word; None where that says nothing of the kind.

    ``rental`` is what the provider shows, None when it says that the machine is gone.
    """
    if host.provider == "ssh" or (rental is not None and rental.status not in DEAD):
        return None
    shown = "gone" if rental is None else rental.shown
    return StandbyLost(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=host.id,
        reason=f"{host.provider} says that the machine is {shown}",
        evidence=(*evidence, f"{host.provider} says: {shown}"),
        gone=rental is None,
        lost_at=now,
    )


def _not_lost(
    state: State, look: ConfirmStandbyLoss, reason: str, recheck_at: datetime | None
) -> Event:
    return StandbyLossRefused(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=look.host.id,
        reason=reason,
        recheck_at=recheck_at,
    )
