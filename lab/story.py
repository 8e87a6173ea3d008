"""What happened in a run, line by line, for people."""

from collections.abc import Callable, Iterable
from datetime import timedelta

from services.api.domain import narration
from shared.envelope import Envelope


class Story:
    """Lines are made only when somebody reads them: most runs nobody asks about."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lines: list[tuple[float, str, Envelope | str]] = []

    def tell(self, who: str, what: "Envelope | str") -> None:
        self._lines.append((self._now(), who, what))

    def lines(self) -> Iterable[str]:
        """``hours  who  what``."""
        for at, who, what in self._lines:
            text = what if isinstance(what, str) else _told(what)
            yield f"{_clock(at)}  {who:<12} {text}"


def _clock(seconds: float) -> str:
    whole = timedelta(seconds=int(seconds))
    return f"{whole!s:>8}.{int(seconds * 10) % 10}"


def _told(envelope: Envelope) -> str:
    event = envelope.event
    text = narration.tell(event)
    return f"#{envelope.position} {event.workspace} e{event.epoch} {event.type}: {text}"
