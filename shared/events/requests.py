"""What people and programs ask for, through the api."""

from dataclasses import dataclass, field
from typing import ClassVar

from shared.events.base import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReceived(Event):
    """Somebody asked for something. Answered by the events it causes, or by RequestRefused.

    ``arguments`` are plain JSON values; the api checked their shape, recovery their sense.
    """

    type: ClassVar[str] = "RequestReceived"

    verb: str
    actor: str
    arguments: dict[str, object] = field(default_factory=dict)
