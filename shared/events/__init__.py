"""The catalogue: one module per voice. ``EVENTS`` maps each type's name to its class."""

from shared.events import health, recovery, requests, sync
from shared.events.base import Event

VOICES: dict[str, tuple[type[Event], ...]] = {
    voice: tuple(
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Event) and cls.__module__ == module.__name__
    )
    for voice, module in (
        ("health", health),
        ("sync", sync),
        ("api", requests),
        ("recovery", recovery),
    )
}
"""Which service says what: the source of an envelope must be the voice of its event."""

EVENTS: dict[str, type[Event]] = {cls.type: cls for said in VOICES.values() for cls in said}
SPEAKER: dict[str, str] = {cls.type: voice for voice, said in VOICES.items() for cls in said}

__all__ = ["EVENTS", "SPEAKER", "VOICES", "Event"]
