"""How a loop waits for something that is to come back by itself.

The reason is said once and not at every try, the pauses grow to a bound and differ a little from
process to process (so that all of them do not come back at the same moment), and what is waited
for can be seen from outside as long as it lasts: a service that waits in silence looks broken.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from shared.clock import Chance, Now, chance, now
from shared.waiting import News

PAUSE_FIRST = 0.25
PAUSE_MAX = 2.0
"""Seconds. Whoever waits for the bus or the log goes on so soon after it came back."""

BUS = "the bus"
EVENT_LOG = "the event log"
"""What most loops wait for, under one name each."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What is waited for, why it does not come, and since when."""

    what: str
    reason: str
    since: datetime


def pause_after(tries: int, *, first: float, most: float, chance: float) -> float:
    """Seconds before the next try after ``tries`` (from 1) that failed.

    It doubles from ``first`` to ``most``; ``chance`` (from 0 to 1) takes up to half of it away.
    """
    grown = min(first * 2.0 ** min(tries - 1, 30), most)
    return grown * (1 - chance / 2)


class Waits:
    """What this process waits for at this moment; ``changed`` is set when that changes."""

    def __init__(
        self,
        *,
        now: Now = now,
        chance: Chance = chance,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.changed = News()
        self._now = now
        self._chance = chance
        self._sleep = sleep
        self._waiting: dict[Patience, Wait] = {}

    def patience(
        self, what: str, *, first: float = PAUSE_FIRST, most: float = PAUSE_MAX
    ) -> "Patience":
        """That of one loop for one thing. Pauses from ``first`` to ``most`` seconds."""
        return Patience(self, what, first=first, most=most)

    def current(self) -> list[Wait]:
        """One for each thing that is waited for, the longest wait first."""
        longest: dict[str, Wait] = {}
        for wait in sorted(self._waiting.values(), key=lambda wait: wait.since):
            longest.setdefault(wait.what, wait)
        return list(longest.values())

    def begin(self, patience: "Patience", reason: str) -> None:
        was = self._waiting.get(patience)
        if was is not None and was.reason == reason:
            return
        log.warning("waits", what=patience.what, reason=reason)
        since = was.since if was else self._now()
        self._waiting[patience] = Wait(what=patience.what, reason=reason, since=since)
        self.changed.set()

    def end(self, patience: "Patience") -> None:
        was = self._waiting.pop(patience, None)
        if was is not None:
            seconds = round((self._now() - was.since).total_seconds(), 1)
            log.info("goes on", what=was.what, after_seconds=seconds)
            self.changed.set()

    async def pause(self, tries: int, *, first: float, most: float) -> None:
        await self._sleep(pause_after(tries, first=first, most=most, chance=self._chance()))


class Patience:
    """``wait`` after each try that failed, ``over`` after one that did not."""

    def __init__(self, waits: Waits, what: str, *, first: float, most: float) -> None:
        self.what = what
        self._waits = waits
        self._first = first
        self._most = most
        self._tries = 0

    def say(self, reason: str) -> None:
        """It does not come, for this reason: say so once, and show it until it is over."""
        self._waits.begin(self, reason)

    async def wait(self, reason: str) -> None:
        """Say so, and pause longer than the last time."""
        self.say(reason)
        self._tries += 1
        await self._waits.pause(self._tries, first=self._first, most=self._most)

    def over(self) -> None:
        """It came: the next pause is the shortest again."""
        self._tries = 0
        self._waits.end(self)
