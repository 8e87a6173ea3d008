"""The only now() and the only chance of the product: elsewhere both are arguments."""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

Now = Callable[[], datetime]
NewId = Callable[[], UUID]
Chance = Callable[[], float]


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A fresh random identity."""
    return uuid4()


def chance() -> float:
    """A number from 0 up to 1, another each time: for pauses, never for secrets."""
    return random.random()  # noqa: S311
