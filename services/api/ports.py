"""What the api needs of the world: the log to read, and the bus to ask through.

Both are the product's own ports, narrowed to what this service may do with them: it can read
the log and put requests into the inbox, and nothing else.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from shared.bus.port import BusError
from shared.envelope import Envelope
from shared.eventlog.port import LogReader, LogUnknownError

__all__ = ["Bus", "BusError", "LogReader", "LogUnknownError"]


class Bus(Protocol):
    """The part of the bus that this service uses; see shared.bus.port for what each promises."""

    @property
    def connected(self) -> bool: ...

    async def publish(self, subject: str, envelope: Envelope) -> None: ...

    def tail(
        self, *, stream: str, subject: str, after_position: int | None = None
    ) -> AsyncIterator[Envelope]: ...

    async def subscribe(
        self, subject: str, handler: Callable[[str, bytes], Awaitable[None]]
    ) -> None: ...

    async def entries(self) -> dict[str, bytes]: ...
