"""The bus on NATS JetStream: the one home of nats-py.

What nats-py offers above plain messages is used where it holds and avoided where it was seen to
fail: its ``fetch`` keeps a single message back until its timeout and spins when the server is
gone, its watches go blind when a stream is made anew. Pulls and reads are therefore requests of
our own, with several answers each, and every loop below asks again from what it knows.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import (
    Error,
    MaxPayloadError,
    NoRespondersError,
)
from nats.errors import (
    TimeoutError as NatsTimeoutError,
)

from shared import codec
from shared.bus.permissions import inbox_prefix as own_inbox
from shared.bus.port import BusError, Delivery, StreamState
from shared.bus.streams import CONSUMER, DURABLE_RECOVERY, KV_STREAM, KV_SUBJECT, STREAMS
from shared.clock import new_id
from shared.envelope import Envelope
from shared.patience import BUS, Waits
from shared.subjects import STATE_CHANGED, STREAM_INBOX, deadletter
from shared.waiting import News, apart

ANSWER_TIMEOUT = 2.0
"""Seconds to wait for one answer of the server."""

PULL_WAIT = 2.0
"""Seconds that a pull waits at the server: a pull that dies with its connection costs this."""

RECHECK = 5.0
"""Seconds after which whoever waits for news looks for itself."""

BACKOFF = 0.25
TOO_BIG = 10054
"""JetStream's error code for a message above the ``max_msg_size`` of its stream."""

READ_BATCH = 500
_DURABLE = f"{STREAM_INBOX}.{DURABLE_RECOVERY}"
_STORED_LATER = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""An event is heard a moment before its stream has it on disk: look again after these seconds."""

log = structlog.get_logger()


class ApiError(BusError):
    """The server refused a request to its JetStream API; ``code`` is like that of HTTP."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Stored:
    """One message read from a stream."""

    sequence: int
    subject: str
    body: bytes
    removed: bool


@dataclass(slots=True)
class _Place:
    """How far a reader of a stream has come; ``created`` tells one stream from its successor."""

    created: str
    next_sequence: int


@dataclass(frozen=True, slots=True)
class _NatsReceipt:
    """Settles a message. Losing it on the way is harmless: the message comes again."""

    msg: Msg

    async def ack(self) -> None:
        await _settled(self.msg.ack())

    async def nak(self, delay: float) -> None:
        await _settled(self.msg.nak(delay))

    async def term(self) -> None:
        await _settled(self.msg.term())


@dataclass(slots=True)
class NatsBus:
    """One connection of one user. Make it with ``connect``."""

    user: str
    waits: Waits
    _nc: Client = field(default_factory=Client)
    _wakers: set[News] = field(default_factory=set)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        user: str,
        password: str,
        inbox_prefix: str | None = None,
        waits: Waits | None = None,
    ) -> AsyncIterator[Self]:
        """Connect, waiting for a server that is not there yet; closes at the end.

        ``waits`` shows what is waited for here, then and later. Raises BusError when the server
        answers and does not accept user and password.
        """
        bus = cls(user, waits or Waits())
        connection = bus.waits.patience(BUS)
        refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def on_error(error: Exception) -> None:
            text = str(error).strip()
            if "authorization violation" in text.lower() and not refused.done():
                refused.set_result(text)
            if "permissions violation" in text.lower():
                # Whoever said it sees a silence only: the server does not answer what it refuses.
                log.error("the bus does not allow this", user=user, reason=text)
            elif bus.connected:
                log.warning("bus", reason=text)
            else:
                connection.say(f"no connection: {text or type(error).__name__}")

        async def on_disconnected() -> None:
            if not bus._nc.is_closed:
                connection.say("the connection is lost")

        async def on_reconnected() -> None:
            connection.over()
            for waker in bus._wakers:
                waker.set()

        connecting = asyncio.create_task(
            bus._nc.connect(
                url,
                user=user,
                password=password,
                inbox_prefix=(inbox_prefix or own_inbox(user)).encode(),
                max_reconnect_attempts=-1,
                reconnect_time_wait=BACKOFF,  # type: ignore[arg-type]  # it only sleeps so long
                ping_interval=3,
                max_outstanding_pings=2,
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
            )
        )
        either: set[asyncio.Future[Any]] = {connecting, refused}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                raise BusError(f"NATS at {url} does not accept user {user!r}: check its password")
            connecting.result()
            connection.over()
            yield bus
        finally:
            connecting.cancel()
            await bus._close()

    async def _close(self) -> None:
        if self._nc.is_connected:
            try:
                await apart(self._nc.flush(timeout=1))
            except Error as error:
                log.warning("bus closed before all was said", reason=str(error))
        await self._nc.close()

    @property
    def connected(self) -> bool:
        return self._nc.is_connected

    # --- saying ------------------------------------------------------------------------------

    async def publish(self, subject: str, envelope: Envelope) -> None:
        await self._store(
            subject, codec.encode(envelope), headers={"Nats-Msg-Id": str(envelope.id)}
        )

    async def publish_all(self, messages: Sequence[tuple[str, Envelope]]) -> None:
        if len(messages) > 1:
            try:
                return await self._store_together(messages)
            except (ApiError, ValueError) as error:
                # Nothing of it was stored. Mostly: the stream has some of these already.
                log.info("published one by one", messages=len(messages), reason=str(error))
        for subject, envelope in messages:
            await self.publish(subject, envelope)
        return None

    async def _store_together(self, messages: Sequence[tuple[str, Envelope]]) -> None:
        """One atomic batch of JetStream: the server writes to its disk once, at the end.

        Raises ApiError when the server wants none of it: for one message that it knows already
        it refuses all.
        """
        batch = new_id().hex
        last = len(messages)
        for number, (subject, envelope) in enumerate(messages, start=1):
            body = codec.encode(envelope)
            headers = {
                "Nats-Msg-Id": str(envelope.id),
                "Nats-Batch-Id": batch,
                "Nats-Batch-Sequence": str(number),
            }
            if number < last:
                await self.publish_raw(subject, body, headers)
            else:
                await self._store(subject, body, headers | {"Nats-Batch-Commit": "1"})

    async def publish_raw(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        try:
            await self._nc.publish(subject, body, headers=dict(headers) if headers else None)
        except MaxPayloadError:
            raise ValueError(f"{subject}: {len(body)} bytes are too many for a message") from None
        except Error as error:
            raise BusError(f"{subject}: {error}") from error

    async def put(self, key: str, value: bytes) -> None:
        await self._store(f"{KV_SUBJECT}.{key}", value)
        await self.publish_raw(STATE_CHANGED, b"")

    async def _store(
        self, subject: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        reply = await self._ask(subject, body, timeout=ANSWER_TIMEOUT, headers=headers)
        _answer(subject, reply.data)

    async def _ask(
        self, subject: str, body: bytes, *, timeout: float, headers: dict[str, str] | None = None
    ) -> Msg:
        try:
            call = self._nc.request(subject, body, timeout=timeout, headers=headers)
            return await apart(call)
        except MaxPayloadError:
            raise ValueError(f"{subject}: {len(body)} bytes are too many for a message") from None
        except NoRespondersError:
            raise BusError(f"{subject}: nobody answers there") from None
        except NatsTimeoutError:
            raise BusError(f"{subject}: no answer in {timeout} s") from None
        except Error as error:
            raise BusError(f"{subject}: {error}") from error

    # --- asking and answering ----------------------------------------------------------------

    async def request(self, subject: str, body: bytes, *, timeout: float) -> bytes:
        return (await self._ask(subject, body, timeout=timeout)).data

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        async def answer(msg: Msg) -> None:
            if msg.reply:
                await self.publish_raw(msg.reply, await handler(msg.data))

        await self._nc.subscribe(subject, queue="answer", cb=answer)

    async def subscribe(
        self, subject: str, handler: Callable[[str, bytes], Awaitable[None]]
    ) -> None:
        async def hear(msg: Msg) -> None:
            await handler(msg.subject, msg.data)

        await self._nc.subscribe(subject, cb=hear)

    # --- the durable consumer ----------------------------------------------------------------

    async def consume(
        self, *, stream: str, durable: str, batch: int = 100
    ) -> AsyncIterator[list[Delivery]]:
        pull = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        answers = await self._subscribed(self._nc.new_inbox())
        patience = self.waits.patience(BUS)
        try:
            while True:
                try:
                    messages = await self._pull(pull, answers, batch)
                except BusError as error:
                    self._raise_if_closed()
                    await patience.wait(f"no messages for consumer {durable}: {error}")
                    continue
                patience.over()
                if messages:
                    yield [_delivery(msg) for msg in messages]
        finally:
            await _unsubscribe(answers)

    async def _pull(self, subject: str, answers: Subscription, batch: int) -> list[Msg]:
        """What is there now, or else the first message of the next two seconds, or nothing."""
        at_once = {"batch": batch, "no_wait": True}
        messages = await self._several(subject, answers, at_once, ANSWER_TIMEOUT, batch)
        if messages:
            return messages
        wait = {"batch": 1, "expires": int(PULL_WAIT * 1e9)}
        return await self._several(subject, answers, wait, PULL_WAIT + 0.5, 1)

    async def _several(
        self,
        subject: str,
        answers: Subscription,
        query: Mapping[str, object],
        timeout: float,
        limit: int,
    ) -> list[Msg]:
        """Send a request that has several answers; collect them up to the status that ends them.

        A silence of ``timeout`` seconds ends them too. Raises BusError when nothing came at all,
        be it for a reason given or for none: nothing heard is not "there is nothing".
        """
        # All of them in one task apart: one for each message would cost more than the message.
        return await apart(self._collected(subject, answers, query, timeout, limit))

    async def _collected(
        self,
        subject: str,
        answers: Subscription,
        query: Mapping[str, object],
        timeout: float,
        limit: int,
    ) -> list[Msg]:
        messages: list[Msg] = []
        try:
            await self._nc.publish(subject, json.dumps(query).encode(), reply=answers.subject)
            while len(messages) < limit:
                msg = await answers.next_msg(timeout=timeout)
                status = (msg.headers or {}).get("Status")
                if status is None:
                    messages.append(msg)
                elif status in {"204", "404", "408"}:
                    break
                else:
                    raise BusError(f"{subject}: status {status}")
        except NatsTimeoutError:
            if not messages:
                raise BusError(f"{subject}: no answer in {timeout} s") from None
        except Error as error:
            raise BusError(f"{subject}: {error}") from error
        return messages

    # --- reading streams ---------------------------------------------------------------------

    async def tail(
        self, *, stream: str, subject: str, after_position: int | None = None
    ) -> AsyncIterator[Envelope]:
        place: _Place | None = None
        known = after_position
        patience = self.waits.patience(BUS)
        async with self._woken_by(subject) as news:
            while True:
                try:
                    if place is None:
                        place = await self._place_after(stream, known)
                    stored = await self._next_stored(stream, subject, place, news)
                    if _leaps(stored, known) and await self._made_anew(stream, place):
                        place, known = None, known or 0
                        continue
                except BusError as error:
                    self._raise_if_closed()
                    await patience.wait(f"stream {stream} cannot be read: {error}")
                    continue
                patience.over()
                for message in stored:
                    place.next_sequence = message.sequence + 1
                    envelope = await self._decoded(message)
                    if envelope is None or (envelope.position or 0) <= (known or 0):
                        continue
                    known = envelope.position
                    yield envelope

    async def _next_stored(
        self, stream: str, subject: str, place: _Place, news: News
    ) -> list[_Stored]:
        """The next messages; an empty list after news that brought nothing, or a while without."""
        if stored := await self._read(stream, subject, place.next_sequence):
            return stored
        if not await news.comes(RECHECK):
            return await self._read(stream, subject, place.next_sequence)
        news.clear()
        for pause in _STORED_LATER:
            await asyncio.sleep(pause)
            if stored := await self._read(stream, subject, place.next_sequence):
                return stored
        return []

    async def _made_anew(self, stream: str, place: _Place) -> bool:
        """Whether another stream stands where ours was: its sequences are not those we know."""
        info = await self._info(stream)
        return info is not None and info["created"] != place.created

    async def _place_after(self, stream: str, position: int | None) -> _Place:
        """Where to read on after an event, found by halving: positions grow with sequences."""
        info = await self._info(stream)
        if info is None:
            raise BusError(f"stream {stream} does not exist")
        state = info["state"]
        low, high = max(int(state["first_seq"]), 1), int(state["last_seq"]) + 1
        if position is None:
            return _Place(info["created"], high)
        while position and low < high:
            middle = (low + high) // 2
            found = await self._read(stream, ">", middle, limit=1)
            if found and (_position(found[0].body) or 0) <= position:
                low = found[0].sequence + 1
            else:
                high = middle
        return _Place(info["created"], low)

    async def _read(
        self, stream: str, subject: str, sequence: int, limit: int = READ_BATCH
    ) -> list[_Stored]:
        """Up to ``limit`` messages of a stream from ``sequence`` on, without any consumer."""
        answers = await self._subscribed(self._nc.new_inbox())
        try:
            query = {"seq": sequence, "batch": limit, "next_by_subj": subject}
            get = f"$JS.API.DIRECT.GET.{stream}"
            messages = await self._several(get, answers, query, ANSWER_TIMEOUT, limit)
        finally:
            await _unsubscribe(answers)
        return [_stored(msg) for msg in messages]

    async def _decoded(self, message: _Stored) -> Envelope | None:
        try:
            return codec.decode(message.body)
        except codec.UndecodableError as error:
            log.error("event kept aside", subject=message.subject, reason=str(error))
            await self.publish_raw(
                deadletter(self.user), message.body, headers={"Dumont-Reason": str(error)}
            )
            return None

    async def stream_state(self, stream: str) -> StreamState | None:
        info = await self._info(stream)
        if info is None:
            return None
        last = int(info["state"]["last_seq"])
        newest = await self._read(stream, ">", last, limit=1) if info["state"]["messages"] else []
        position = _position(newest[0].body) if newest else None
        return StreamState(last_sequence=last, last_position=position)

    async def unsettled(self, stream: str) -> range:
        info = await self._info(stream)
        if info is None:
            return range(0)
        state = info["state"]
        return range(max(int(state["first_seq"]), 1), int(state["last_seq"]) + 1)

    # --- the bucket --------------------------------------------------------------------------

    async def entries(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        sequence = 1
        while page := await self._read(KV_STREAM, f"{KV_SUBJECT}.>", sequence):
            for entry in page:
                key = entry.subject.removeprefix(f"{KV_SUBJECT}.")
                found.pop(key, None)
                if not entry.removed:
                    found[key] = entry.body
            sequence = page[-1].sequence + 1
        return found

    async def changes(self) -> AsyncIterator[None]:
        async with self._woken_by(STATE_CHANGED) as news:
            while True:
                news.clear()
                yield
                await news.comes(RECHECK)

    # --- set-up ------------------------------------------------------------------------------

    async def ensure_streams(self) -> bool:
        made = False
        for config in STREAMS:
            if await self._info(str(config["name"])) is None:
                await self._api(f"STREAM.CREATE.{config['name']}", config)
                made = True
        if await self._found(f"CONSUMER.INFO.{_DURABLE}") is None:
            await self._put_durable()
            made = True
        return made

    async def update_streams(self) -> None:
        """Bring what is there to the configuration of this version (``admin`` may)."""
        for config in STREAMS:
            await self._api(f"STREAM.UPDATE.{config['name']}", config)
        held = (await self._api(f"CONSUMER.INFO.{_DURABLE}"))["config"]
        if any(held.get(name) != value for name, value in CONSUMER.items()):
            await self._put_durable()

    async def _put_durable(self) -> None:
        """Make the durable, or give the one that is there its configuration of this version."""
        request = {"stream_name": STREAM_INBOX, "config": CONSUMER, "action": ""}
        await self._api(f"CONSUMER.CREATE.{_DURABLE}", request)

    async def _info(self, stream: str) -> dict[str, Any] | None:
        return await self._found(f"STREAM.INFO.{stream}")

    async def _found(self, name: str) -> dict[str, Any] | None:
        try:
            return await self._api(name)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def _api(self, name: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        request = json.dumps(body).encode() if body is not None else b""
        subject = f"$JS.API.{name}"
        return _answer(
            subject, (await self._ask(subject, request, timeout=2 * ANSWER_TIMEOUT)).data
        )

    # --- within ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _woken_by(self, subject: str) -> AsyncIterator[News]:
        """An event that is set by each message on ``subject`` and by each reconnect."""
        news = News()

        async def on_message(_: Msg) -> None:
            news.set()

        subscription = await self._subscribed(subject, on_message)
        self._wakers.add(news)
        try:
            yield news
        finally:
            self._wakers.discard(news)
            await _unsubscribe(subscription)

    async def _subscribed(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]] | None = None
    ) -> Subscription:
        try:
            return await self._nc.subscribe(subject, cb=callback)
        except Error as error:
            raise BusError(f"{subject}: {error}") from error

    def _raise_if_closed(self) -> None:
        if self._nc.is_closed:
            raise BusError("the connection to the bus is closed")


async def _settled(settlement: Awaitable[None]) -> None:
    try:
        await settlement
    except Error as error:
        log.warning("settlement lost, the message will come again", reason=str(error))


async def _unsubscribe(subscription: Subscription) -> None:
    try:
        await subscription.unsubscribe()
    except Error as error:
        log.debug("unsubscribed from a closed bus", reason=str(error))


def _answer(subject: str, body: bytes) -> dict[str, Any]:
    """An answer of JetStream. Raises ApiError for its refusals, BusError for what is none."""
    try:
        answer = json.loads(body)
    except ValueError:
        raise BusError(f"{subject}: the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise BusError(f"{subject}: the answer is not an object")
    if error := answer.get("error"):
        if error.get("err_code") == TOO_BIG:
            raise ValueError(f"{subject}: this event is too big for its stream")
        raise ApiError(int(error.get("code", 500)), f"{subject}: {error.get('description')}")
    return answer


def _delivery(msg: Msg) -> Delivery:
    return Delivery(
        subject=msg.subject,
        body=msg.data,
        redelivered=msg.metadata.num_delivered > 1,
        receipt=_NatsReceipt(msg),
    )


def _stored(msg: Msg) -> _Stored:
    headers = msg.headers or {}
    return _Stored(
        sequence=int(headers["Nats-Sequence"]),
        subject=headers["Nats-Subject"],
        body=msg.data,
        removed=headers.get("KV-Operation") in {"DEL", "PURGE"},
    )


def _leaps(stored: list[_Stored], known: int | None) -> bool:
    """Whether what was read does not follow on what is known: nothing, or a later position."""
    if not stored or known is None:
        return True
    return (_position(stored[0].body) or 0) != known + 1


def _position(body: bytes) -> int | None:
    try:
        return codec.decode(body).position
    except codec.UndecodableError:
        return None
