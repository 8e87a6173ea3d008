"""Which machines in a provider's account have no place in the state."""

from datetime import datetime

from services.recovery.domain.obligations import role_of
from services.recovery.domain.state import End, Phase, State
from services.recovery.domain.world import Rental, RentalStatus
from shared.events.recovery import ZombieSeen

ALIVE = {RentalStatus.RUNNING, RentalStatus.BOOTING}


def zombie(state: State, rental: Rental, now: datetime) -> ZombieSeen | None:
    """The event for a machine with our label that must not be, None for one that may."""
    reason = _misplaced(state, rental)
    if reason is None:
        return None
    return ZombieSeen(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=rental.label,
        provider=rental.provider,
        provider_id=rental.provider_id,
        reason=reason,
        seen_at=now,
    )


def _misplaced(state: State, rental: Rental) -> str | None:
    for owed in state.condemned:
        if owed.provider_id == rental.provider_id and owed.end is End.STOP:
            if owed.keep and state.phase in {Phase.HALTED, Phase.REMOVED}:
                return None  # a person may be fetching what is left from it
            returned = owed.seen and rental.status in ALIVE
            return "it was fenced, and the market runs it again" if returned else None
        if owed.provider_id == rental.provider_id:
            return None  # its end is owed already
        if owed.machine == rental.label and not owed.provider_id:
            return None
    if state.adopted is not None and rental.provider_id == state.adopted.provider_id:
        return None
    if role_of(state, rental.label, rental.provider_id) is not None:
        return None
    return "it carries our label and has no place in the state"
