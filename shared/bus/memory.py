"""The bus inside one process, for unit tests: same promises, no server, nothing kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from shared import codec
from shared.bus.port import BusError, Delivery, StreamState
from shared.envelope import Envelope
from shared.subjects import ALL_EVENTS, ALL_INBOX, STREAM_EVENTS, STREAM_INBOX
from shared.waiting import News

RECHECK = 5.0
_SUBJECTS = {STREAM_EVENTS: ALL_EVENTS, STREAM_INBOX: ALL_INBOX}


@dataclass(slots=True)
class _Queued:
    """A message on its way to one durable. ``due`` is when it may be given (again)."""

    sequence: int
    subject: str
    body: bytes
    due: float = 0.0
    given: int = 0


@dataclass(slots=True)
class _Stream:
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    ids: set[UUID] = field(default_factory=set)
    queued: list[_Queued] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _MemoryReceipt:
    bus: "MemoryBus"
    queue: list[_Queued]
    message: _Queued

    async def ack(self) -> None:
        if self.message in self.queue:
            self.queue.remove(self.message)

    async def nak(self, delay: float) -> None:
        self.message.due = asyncio.get_running_loop().time() + delay
        self.bus.wake()

    async def term(self) -> None:
        await self.ack()


@dataclass(slots=True)
class MemoryBus:
    """All services of a test share one. Set ``connected`` to False and it is lost.

    ``ack_wait`` is the time in seconds after which an unsettled delivery comes again.
    """

    connected: bool = True
    ack_wait: float = 30.0
    user: str = "memory"
    _streams: dict[str, _Stream] = field(
        default_factory=lambda: {name: _Stream() for name in _SUBJECTS}
    )
    _bucket: dict[str, bytes] = field(default_factory=dict)
    _hearers: list[tuple[str, Callable[[str, bytes], Awaitable[None]]]] = field(
        default_factory=list
    )
    _servers: list[tuple[str, Callable[[bytes], Awaitable[bytes]]]] = field(default_factory=list)
    _wakers: set[News] = field(default_factory=set)

    def wake(self) -> None:
        """Let everyone who waits look again."""
        for waker in self._wakers:
            waker.set()

    async def publish(self, subject: str, envelope: Envelope) -> None:
        self._must_be_connected(subject)
        name = next((n for n, pattern in _SUBJECTS.items() if matches(pattern, subject)), None)
        if name is None:
            raise BusError(f"{subject}: nobody answers there")
        stream = self._streams[name]
        if envelope.id in stream.ids:
            return
        body = codec.encode(envelope)
        stream.ids.add(envelope.id)
        stream.messages.append((subject, body))
        stream.queued.append(_Queued(len(stream.messages), subject, body))
        await self._say(subject, body)
        self.wake()

    async def publish_all(self, messages: Sequence[tuple[str, Envelope]]) -> None:
        for subject, envelope in messages:
            await self.publish(subject, envelope)

    async def publish_raw(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self._must_be_connected(subject)
        await self._say(subject, body)

    async def consume(
        self, *, stream: str, durable: str, batch: int = 100
    ) -> AsyncIterator[list[Delivery]]:
        queue = self._streams[stream].queued
        with self._woken() as news:
            while True:
                news.clear()
                now = asyncio.get_running_loop().time()
                ready = [m for m in queue if m.due <= now][:batch] if self.connected else []
                if ready:
                    yield [self._give(queue, message, now) for message in ready]
                    continue
                due = min((m.due for m in queue), default=now + RECHECK)
                await news.comes(max(due - now, 0.001) if self.connected else RECHECK)

    def _give(self, queue: list[_Queued], message: _Queued, now: float) -> Delivery:
        message.due = now + self.ack_wait
        message.given += 1
        return Delivery(
            subject=message.subject,
            body=message.body,
            redelivered=message.given > 1,
            receipt=_MemoryReceipt(self, queue, message),
        )

    async def tail(
        self, *, stream: str, subject: str, after_position: int | None = None
    ) -> AsyncIterator[Envelope]:
        messages = self._streams[stream].messages
        next_index = len(messages) if after_position is None else 0
        known = after_position or 0
        with self._woken() as news:
            while True:
                news.clear()
                while next_index < len(messages):
                    said_on, body = messages[next_index]
                    next_index += 1
                    envelope = codec.decode(body)
                    if matches(subject, said_on) and (envelope.position or 0) > known:
                        known = envelope.position or 0
                        yield envelope
                await news.comes(RECHECK)

    async def request(self, subject: str, body: bytes, *, timeout: float) -> bytes:
        self._must_be_connected(subject)
        for pattern, handler in self._servers:
            if matches(pattern, subject):
                try:
                    return await asyncio.wait_for(handler(body), timeout)
                except TimeoutError:
                    raise BusError(f"{subject}: no answer in {timeout} s") from None
        raise BusError(f"{subject}: nobody answers there")

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._servers.append((subject, handler))

    async def subscribe(
        self, subject: str, handler: Callable[[str, bytes], Awaitable[None]]
    ) -> None:
        self._hearers.append((subject, handler))

    async def put(self, key: str, value: bytes) -> None:
        self._must_be_connected(key)
        self._bucket[key] = value
        self.wake()

    async def entries(self) -> dict[str, bytes]:
        self._must_be_connected("entries")
        return dict(self._bucket)

    async def changes(self) -> AsyncIterator[None]:
        with self._woken() as news:
            while True:
                news.clear()
                yield
                await news.comes(RECHECK)

    async def ensure_streams(self) -> bool:
        self._must_be_connected("streams")
        return False

    async def stream_state(self, stream: str) -> StreamState | None:
        self._must_be_connected(stream)
        messages = self._streams[stream].messages
        position = codec.decode(messages[-1][1]).position if messages else None
        return StreamState(last_sequence=len(messages), last_position=position)

    async def unsettled(self, stream: str) -> range:
        self._must_be_connected(stream)
        held = self._streams[stream]
        following = len(held.messages) + 1
        return range(min((m.sequence for m in held.queued), default=following), following)

    def published(self, stream: str) -> list[Envelope]:
        """Everything that a stream was given, for assertions."""
        return [codec.decode(body) for _, body in self._streams[stream].messages]

    async def _say(self, subject: str, body: bytes) -> None:
        for pattern, handler in self._hearers:
            if matches(pattern, subject):
                await handler(subject, body)

    def _must_be_connected(self, what: str) -> None:
        if not self.connected:
            raise BusError(f"{what}: not connected")

    @contextmanager
    def _woken(self) -> Iterator[News]:
        news = News()
        self._wakers.add(news)
        try:
            yield news
        finally:
            self._wakers.discard(news)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one that a pattern with ``*`` (one token) and ``>`` (the rest) means."""
    wanted, said = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(said) > index
        if index >= len(said) or part not in ("*", said[index]):
            return False
    return len(wanted) == len(said)
