"""What the product asks of its bus. Errors of the library behind it never leave it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.envelope import Envelope


class BusError(Exception):
    """Not known to have worked: try again with the same id, the bus drops what it has."""


class Receipt(Protocol):
    """How a delivery is settled. A settlement that gets lost is a redelivery, never an error."""

    async def ack(self) -> None: ...

    async def nak(self, delay: float) -> None: ...

    async def term(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message of a durable consumer: it comes again until it is settled."""

    subject: str
    body: bytes
    redelivered: bool
    receipt: Receipt

    async def ack(self) -> None:
        """It is done: never again."""
        await self.receipt.ack()

    async def nak(self, delay: float) -> None:
        """Not now: again after ``delay`` seconds."""
        await self.receipt.nak(delay)

    async def term(self) -> None:
        """It will never be any good: never again."""
        await self.receipt.term()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """What a stream of the log holds.

    ``last_sequence`` is 0 in a stream that never held anything (one made anew, too);
    ``last_position`` is that of the newest event in it, None when it is empty.
    """

    last_sequence: int
    last_position: int | None


class Bus(Protocol):
    """Streams (kept, acknowledged), plain subjects (heard now or never) and one bucket."""

    @property
    def connected(self) -> bool:
        """Whether the connection stands at this moment."""
        ...

    async def publish(self, subject: str, envelope: Envelope) -> None:
        """Put an event in the stream of this subject; returns when the stream has it on disk.

        ``envelope.id`` is its message id: within ten minutes a repeat is dropped. Raises BusError,
        and ValueError for an event that is too big for any stream.
        """
        ...

    async def publish_raw(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Say something to whoever listens now (telemetry, dead letters). Raises BusError."""
        ...

    def consume(
        self, *, stream: str, durable: str, batch: int = 100
    ) -> AsyncIterator[list[Delivery]]:
        """What this durable consumer was not yet given, at least once, oldest first.

        Never empty lists, at most ``batch`` each. Outlives a lost bus, a restarted one, and a
        stream made anew. Raises BusError only when this connection is closed for good.
        """
        ...

    def tail(
        self, *, stream: str, subject: str, after_position: int | None = None
    ) -> AsyncIterator[Envelope]:
        """The log as the relay publishes it, in order of position, each event once.

        ``subject`` may end in ``>``. ``after_position`` is the last position known to the caller;
        None means from now on. Events that the stream no longer holds are not waited for: the
        next position may be more than one further. What does not decode goes to the dead letters.
        """
        ...

    async def request(self, subject: str, body: bytes, *, timeout: float) -> bytes:
        """Ask, and wait up to ``timeout`` seconds for one answer. Raises BusError."""
        ...

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer requests, one at a time, as long as the bus lives. ``subject`` may have ``*``."""
        ...

    async def subscribe(
        self, subject: str, handler: Callable[[str, bytes], Awaitable[None]]
    ) -> None:
        """Hear what is said on a plain subject from now on, one message at a time."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Set a key of the state bucket; returns when it can be read. Raises BusError."""
        ...

    async def entries(self) -> dict[str, bytes]:
        """Every key of the state bucket as it is now. Raises BusError."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Wake-ups: at once, after each change of the bucket, each reconnect, and every 5 s.

        A wake-up says "read the entries again" and nothing else. Several changes may be one.
        """
        ...


class Backbone(Bus, Protocol):
    """The bus as the relay and the set-up see it."""

    async def publish_all(self, messages: Sequence[tuple[str, Envelope]]) -> None:
        """Put events in the stream of their subjects, in order; returns when all are on disk.

        It is ``publish`` of each (a repeat is dropped by its id) in one go. After an error the
        stream holds the first of them, or none, or all. Raises BusError, ValueError.
        """
        ...

    async def ensure_streams(self) -> bool:
        """Make what is missing of streams, durable and bucket; True when anything was made.

        Never changes or removes what is there. Raises BusError.
        """
        ...

    async def stream_state(self, stream: str) -> StreamState | None:
        """What a stream holds, None when it does not exist. Raises BusError."""
        ...

    async def unsettled(self, stream: str) -> range:
        """The sequences from the oldest to the newest message that a work queue still holds.

        What was settled is gone from it, so it is empty when all was; ``stop`` is the sequence
        of the next message. Empty, too, where there is no such stream. Raises BusError.
        """
        ...
