"""How calls are spaced and when a read is made again: the same for every cloud."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from shared.clouds.errors import NoAnswerError, RateLimitedError, ServerFailedError

T = TypeVar("T")

READ_ATTEMPTS_MAX = 3
READ_PAUSE = 1.0
"""Seconds before a read is made again; doubled each time."""
RETRY_AFTER_MAX = 10.0
"""A longer wait than this is the caller's to decide."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One call each ``interval`` seconds in the long run, ``burst`` of them at once."""

    interval: float
    burst: int = 1


class Pace:
    """Spaces calls of one kind, for all callers together. ``scale`` 0 switches it off."""

    def __init__(
        self,
        limits: Mapping[str, Limit],
        *,
        scale: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limits = limits
        self._scale = scale
        self._monotonic = monotonic
        self._sleep = sleep
        self._due: dict[str, float] = {}

    async def turn(self, kind: str) -> None:
        """Return when one more call of this kind is allowed."""
        limit = self._limits.get(kind, Limit(0.0))
        interval = limit.interval * self._scale
        now = self._monotonic()
        due = self._due.get(kind, now)
        self._due[kind] = max(due, now) + interval
        wait = due - (limit.burst - 1) * interval - now
        if wait > 0:
            await self._sleep(wait)

    def hold(self, kind: str, seconds: float) -> None:
        """No call of this kind for so long: the cloud asked for it."""
        limit = self._limits.get(kind, Limit(0.0))
        allowance = (limit.burst - 1) * limit.interval
        until = self._monotonic() + (seconds + allowance) * self._scale
        self._due[kind] = max(self._due.get(kind, until), until)

    async def pause(self, seconds: float) -> None:
        """Wait before something is tried again."""
        await self._sleep(seconds * self._scale)


async def read(call: Callable[[], Awaitable[T]], pace: Pace) -> T:
    """Make a call that changes nothing, again when nobody answered or the cloud stumbled.

    Raises what the last try raised.
    """
    for attempt in range(1, READ_ATTEMPTS_MAX):
        try:
            return await call()
        except (NoAnswerError, ServerFailedError):
            await pace.pause(READ_PAUSE * 2 ** (attempt - 1))
        except RateLimitedError as limited:
            wait = limited.retry_after or READ_PAUSE * 2**attempt
            if wait > RETRY_AFTER_MAX:
                raise
            await pace.pause(wait)
    return await call()
