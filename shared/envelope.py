"""What surrounds an event on its way: the words of CloudEvents 1.0."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One event with its identity.

    ``id`` is given by whoever saw the fact and never changes; it is also the ``Nats-Msg-Id``.
    ``source`` is the service that said it; ``correlation`` the incident; ``causation`` the
    event that led to it; ``position`` its place in the log, None until it is recorded.
    """

    id: UUID
    source: str
    time: datetime
    event: Event
    correlation: UUID | None = None
    causation: UUID | None = None
    position: int | None = None
