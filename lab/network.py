"""The bus as services meet it: late, twice, out of order, gone for a while, or wiped.

One ``Server`` keeps streams and bucket; each process has a ``Connection`` of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from uuid import UUID

from lab.clock import CURRENT, Life, Process, running
from lab.wire import Wire
from shared import codec
from shared.bus.memory import matches
from shared.bus.port import BusError, Delivery, StreamState
from shared.envelope import Envelope
from shared.subjects import ALL_EVENTS, ALL_INBOX, STREAM_EVENTS, STREAM_INBOX
from shared.waiting import News

Published = Callable[[str, Envelope], None]
_SUBJECTS = {STREAM_EVENTS: ALL_EVENTS, STREAM_INBOX: ALL_INBOX}
BUCKET = "bucket"
EVERYTHING = (*_SUBJECTS, BUCKET)
"""What somebody may wait for."""


@dataclass(slots=True)
class _Queued:
    """A message on its way to the durable. ``due`` is when it may be given (again)."""

    sequence: int
    subject: str
    body: bytes
    due: float
    given: int = 0


@dataclass(slots=True)
class _Stream:
    messages: list[tuple[str, Envelope]] = field(default_factory=list)
    ids: set[UUID] = field(default_factory=set)


@dataclass(slots=True)
class Moods:
    """How the bus is at the moment: shares of messages, and seconds."""

    acks_lost: float = 0.0  # publishes that happen and are not confirmed
    lost: float = 0.0  # publishes that never arrive and are not confirmed
    twice: float = 0.0  # deliveries whose settlement gets lost
    forgotten: float = 0.0  # publishes that the server does not know again
    late: float = 0.0  # deliveries come up to so many seconds late: out of order
    blind: bool = False  # watches of the bucket hear nothing


@dataclass(frozen=True, slots=True)
class _Receipt:
    server: "Server"
    message: _Queued

    async def ack(self) -> None:
        if self.server.chance.random() >= self.server.moods.twice:
            self.server.settle(self.message)

    async def nak(self, delay: float) -> None:
        self.message.due = asyncio.get_running_loop().time() + delay
        self.server.wake(STREAM_INBOX)

    async def term(self) -> None:
        self.server.settle(self.message)


class Server:
    """What the bus keeps. ``on_kept`` hears of each confirmed publish, before it is confirmed.

    ``ack_wait`` is the time in seconds after which an unsettled delivery comes again, ``recheck``
    how often a connection looks by itself.
    """

    def __init__(
        self,
        chance: Random,
        *,
        ack_wait: float = 30.0,
        recheck: float = 5.0,
        on_kept: Published = lambda _, __: None,
    ) -> None:
        self.chance = chance
        self.moods = Moods()
        self.up = True
        self.ack_wait = ack_wait
        self.recheck = recheck
        self.on_kept = on_kept
        self.streams = {name: _Stream() for name in _SUBJECTS}
        self.bucket: dict[str, bytes] = {}
        self.queue: list[_Queued] = []
        self.queued = 0
        self.wire = Wire(chance, latency=0.02)
        self.deadletters: list[tuple[str, bytes]] = []
        self.hearers: list[tuple[str, Callable[[str, bytes], Awaitable[None]]]] = []
        self.servers: list[tuple[str, Callable[[bytes], Awaitable[bytes]]]] = []
        self.anew = False
        self._wakers: dict[News, tuple[str, Process | None]] = {}

    # --- what a message does here

    def keep(self, name: str, subject: str, envelope: Envelope, body: bytes) -> None:
        stream = self.streams[name]
        forgotten = self.moods.forgotten and self.chance.random() < self.moods.forgotten
        if envelope.id in stream.ids and not forgotten:
            return
        stream.ids.add(envelope.id)
        stream.messages.append((subject, envelope))
        self.on_kept(subject, envelope)
        if name == STREAM_INBOX:
            self.deliver(subject, body)
        else:
            self.wake(name)

    def deliver(self, subject: str, body: bytes) -> None:
        """Put bytes before the reader of the inbox, whatever they are."""
        loop = running()
        delay = self.chance.random() * self.moods.late if self.moods.late else 0.0
        self.queued += 1
        self.queue.append(_Queued(self.queued, subject, body, loop.time() + delay))
        loop.arrange(delay, partial(self.wake, STREAM_INBOX))

    def settle(self, message: _Queued) -> None:
        if message in self.queue:
            self.queue.remove(message)

    def unsettled(self) -> range:
        """The inbox from its oldest message to its newest, by their sequences."""
        following = self.queued + 1
        return range(min((m.sequence for m in self.queue), default=following), following)

    def wipe(self) -> None:
        """The store is lost, under live connections."""
        self.streams = {name: _Stream() for name in _SUBJECTS}
        self.queue.clear()
        self.queued = 0
        self.bucket.clear()
        self.anew = True

    # --- who waits here

    def wake(self, *news: str) -> None:
        """Let everyone look again who waits for one of these."""
        for waker, (awaited, process) in list(self._wakers.items()):
            if process is not None and process.life is Life.DEAD:
                del self._wakers[waker]
            elif awaited in news:
                waker.set()

    @contextmanager
    def woken(self, by: str) -> Iterator[News]:
        """An event that is set at news of that kind."""
        news = News()
        self._wakers[news] = (by, CURRENT.get())
        try:
            yield news
        finally:
            self._wakers.pop(news, None)


class Connection:
    """Implements the bus's port for one process. ``cut`` takes it off the network."""

    def __init__(self, server: Server, user: str = "lab") -> None:
        self.server = server
        self.user = user
        self.cut = False

    @property
    def connected(self) -> bool:
        return self.server.up and not self.cut

    async def publish(self, subject: str, envelope: Envelope) -> None:
        name = next((n for n, pattern in _SUBJECTS.items() if matches(pattern, subject)), None)
        if name is None:
            raise BusError(f"{subject}: nobody answers there")
        await self._answering(subject)
        server, draw = self.server, self.server.chance.random
        body = codec.encode(envelope) if name == STREAM_INBOX else b""
        keep = partial(server.keep, name, subject, envelope, body)
        unconfirmed = BusError(f"{subject}: not confirmed")
        if server.moods.lost and draw() < server.moods.lost:
            await server.wire.nothing(unconfirmed, after=2.0)
        lost = server.moods.acks_lost and draw() < server.moods.acks_lost
        await server.wire.call(keep, lost=unconfirmed if lost else None, patience=2.0)

    async def publish_all(self, messages: Sequence[tuple[str, Envelope]]) -> None:
        for subject, envelope in messages:
            await self.publish(subject, envelope)

    async def publish_raw(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        if not self.connected:
            raise BusError(f"{subject}: not connected")
        if subject.startswith("dumont.deadletter."):
            self.server.deadletters.append(((headers or {}).get("Dumont-Reason", ""), body))
        for pattern, handler in self.server.hearers:
            if matches(pattern, subject):
                await handler(subject, body)

    async def consume(
        self, *, stream: str, durable: str, batch: int = 100
    ) -> AsyncIterator[list[Delivery]]:
        assert stream == STREAM_INBOX, "the inbox alone has a durable reader"
        server, loop = self.server, asyncio.get_running_loop()
        with server.woken(stream) as news:
            while True:
                news.clear()
                now = loop.time()
                ready = [m for m in server.queue if m.due <= now][:batch] if self.connected else []
                if ready:
                    yield [self._give(message, now) for message in ready]
                    continue
                due = min((m.due for m in server.queue), default=now + server.recheck)
                wait = max(due - now, 0.001) if self.connected else server.recheck
                await news.comes(wait)

    def _give(self, message: _Queued, now: float) -> Delivery:
        message.due = now + self.server.ack_wait
        message.given += 1
        return Delivery(
            subject=message.subject,
            body=message.body,
            redelivered=message.given > 1,
            receipt=_Receipt(self.server, message),
        )

    async def tail(
        self, *, stream: str, subject: str, after_position: int | None = None
    ) -> AsyncIterator[Envelope]:
        server = self.server
        following = server.streams[stream]
        index = len(following.messages) if after_position is None else 0
        known = after_position or 0
        with server.woken(stream) as news:
            while True:
                news.clear()
                if server.streams[stream] is not following:
                    following, index = server.streams[stream], 0
                while self.connected and index < len(following.messages):
                    said_on, envelope = following.messages[index]
                    index += 1
                    if matches(subject, said_on) and (envelope.position or 0) > known:
                        known = envelope.position or 0
                        yield envelope
                await news.comes(server.recheck)

    async def request(self, subject: str, body: bytes, *, timeout: float) -> bytes:
        await self._answering(subject)
        for pattern, handler in self.server.servers:
            if matches(pattern, subject):
                try:
                    return await asyncio.wait_for(handler(body), timeout)
                except TimeoutError:
                    raise BusError(f"{subject}: no answer in {timeout} s") from None
        raise BusError(f"{subject}: nobody answers there")

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        self.server.servers.append((subject, handler))

    async def subscribe(
        self, subject: str, handler: Callable[[str, bytes], Awaitable[None]]
    ) -> None:
        self.server.hearers.append((subject, handler))

    async def put(self, key: str, value: bytes) -> None:
        await self._answering(key)
        server = self.server

        def put() -> None:
            changed = server.bucket.get(key) != value
            server.bucket[key] = value
            if changed and not server.moods.blind:
                server.wake(BUCKET)

        await server.wire.call(put)

    async def entries(self) -> dict[str, bytes]:
        await self._answering("entries")
        return await self.server.wire.call(lambda: dict(self.server.bucket))

    async def changes(self) -> AsyncIterator[None]:
        with self.server.woken(BUCKET) as news:
            while True:
                news.clear()
                yield
                await news.comes(self.server.recheck)

    async def ensure_streams(self) -> bool:
        await self._answering("streams")
        made, self.server.anew = self.server.anew, False
        return made

    async def stream_state(self, stream: str) -> StreamState | None:
        await self._answering(stream)
        messages = self.server.streams[stream].messages
        position = messages[-1][1].position if messages else None
        return StreamState(last_sequence=len(messages), last_position=position)

    async def unsettled(self, stream: str) -> range:
        assert stream == STREAM_INBOX, "the inbox alone is a work queue"
        await self._answering(stream)
        return await self.server.wire.call(self.server.unsettled)

    async def _answering(self, what: str) -> None:
        if not self.connected:
            await self.server.wire.nothing(BusError(f"{what}: not connected"), after=1.0)
