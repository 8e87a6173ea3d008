"""Which incident an event belongs to: from the first failed check to the end of the recovery."""

from uuid import UUID

from shared.envelope import Envelope
from shared.events.health import HealthFailed, HealthRestored, ThresholdReached
from shared.events.recovery import (
    FailoverStarted,
    RecoveryCompleted,
    RecoveryStarted,
    StandbyLost,
    WorkspaceRegistered,
)
from shared.events.requests import RequestReceived

OPENS = (
    HealthFailed,
    ThresholdReached,
    StandbyLost,
    FailoverStarted,
    RecoveryStarted,
    RequestReceived,
    WorkspaceRegistered,
)


def opened(current: UUID | None, envelope: Envelope) -> UUID | None:
    """The incident that ``envelope`` is part of."""
    if current is None and isinstance(envelope.event, OPENS):
        return envelope.id
    return current


def after(current: UUID | None, envelope: Envelope, *, under_way: bool) -> UUID | None:
    """The incident that is still open once ``envelope`` is recorded.

    ``under_way``: whether the workspace is in the middle of a failover or recovery.
    """
    match envelope.event:
        case RecoveryCompleted():
            return None
        case HealthRestored() | RequestReceived() if not under_way:
            return None
        case event if current is None and not isinstance(event, OPENS):
            return None
        case _:
            return envelope.correlation or current
