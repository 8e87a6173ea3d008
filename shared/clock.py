"""The only now() and the only chance of the product: elsewhere both are arguments."""

import random
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

Now = Callable[[], datetime]
NewId = Callable[[], UUID]

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
Chance = Callable[[], float]


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def steady() -> float:
    """Seconds that never jump and, where the system can, go on while the machine sleeps."""
    return time.clock_gettime(_STEADY)


def new_id() -> UUID:
    """A fresh identity: 74 random bits behind the time in milliseconds (UUID version 7, RFC 9562).

    Those made one after the other are neighbours in an index too.
    """
    milliseconds = time.time_ns() // 1_000_000
    drawn = secrets.randbits(74)
    high, low = drawn >> 62, drawn & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low)


def chance() -> float:
    """A number from 0 up to 1, another each time: for pauses, never for secrets."""
    return random.random()  # noqa: S311
