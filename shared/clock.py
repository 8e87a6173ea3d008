"""The only now() and the only random identities of the product: time is an argument elsewhere."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

Now = Callable[[], datetime]
NewId = Callable[[], UUID]


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A fresh random identity."""
    return uuid4()
