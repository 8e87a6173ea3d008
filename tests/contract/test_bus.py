"""What every bus promises, and what only a real one can break."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from random import Random
from uuid import UUID, uuid4

import nats as nats_py
import pytest
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from structlog.testing import capture_logs

from lab.network import Connection, Server
from shared import codec, subjects
from shared.bus.memory import MemoryBus, matches
from shared.bus.nats_bus import NatsBus
from shared.bus.permissions import USERS, ServerConfig, password_file
from shared.bus.port import Backbone, BusError, Delivery
from shared.bus.streams import CONSUMER, DURABLE_RECOVERY, KV_STREAM, SECOND
from shared.envelope import Envelope
from shared.events.health import HealthFailed
from shared.events.recovery import RecoveryStarted
from shared.machines import MachineId, Role, WorkspaceName
from tests.support.faults import fault
from tests.support.servers import Nats

pytestmark = pytest.mark.anyio

WS = WorkspaceName("train")
As = Callable[[str], AbstractAsyncContextManager[Backbone]]


def seen(failures: int, *, id: UUID | None = None, evidence: str = "") -> Envelope:
    """Something that health says."""
    return Envelope(
        id=id or uuid4(),
        source="health",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        event=HealthFailed(
            workspace=WS,
            epoch=1,
            machine=MachineId("gpu"),
            role=Role.GPU,
            failures=failures,
            threshold=3,
            reason="no answer",
            evidence=(evidence,) if evidence else (),
        ),
    )


def logged(position: int, workspace: WorkspaceName = WS) -> Envelope:
    """Something that the relay publishes."""
    return Envelope(
        id=UUID(int=position),
        source="recovery",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        event=RecoveryStarted(workspace=workspace, epoch=1, reason="first start"),
        position=position,
    )


INBOX = subjects.inbox("health", WS, "HealthFailed")
EVENTS = subjects.event(WS, "RecoveryStarted")


def user(server: Nats, name: str) -> AbstractAsyncContextManager[NatsBus]:
    return NatsBus.connect(server.url, name, server.passwords[name])


async def empty(server: Nats) -> None:
    """Take away all streams and make them anew."""
    client = await nats_py.connect(
        server.url, user="admin", password=server.passwords["admin"], inbox_prefix=b"_INBOX_admin"
    )
    for info in await client.jetstream().streams_info():
        assert info.config.name is not None
        await client.jetstream().delete_stream(info.config.name)
    await client.close()
    async with user(server, "admin") as admin:
        assert await admin.ensure_streams()


@pytest.fixture(params=["memory", "lab", "nats"])
async def connect(request: pytest.FixtureRequest) -> As:
    """Connects as a user, to one bus that begins empty."""
    if request.param == "memory":
        shared = MemoryBus()

        @asynccontextmanager
        async def memory(_: str) -> AsyncIterator[Backbone]:
            yield shared

        return memory
    if request.param == "lab":
        kept = Server(Random(1))

        @asynccontextmanager
        async def lab(name: str) -> AsyncIterator[Backbone]:
            yield Connection(kept, name)

        return lab
    server: Nats = request.getfixturevalue("nats")
    await empty(server)
    return lambda name: user(server, name)


class Consumer:
    """Takes deliveries one by one, however they are batched."""

    def __init__(self, bus: Backbone, batch: int = 100) -> None:
        self.batches = bus.consume(
            stream=subjects.STREAM_INBOX, durable=DURABLE_RECOVERY, batch=batch
        )
        self.waiting: list[Delivery] = []

    async def next(self, seconds: float = 10.0) -> Delivery:
        if not self.waiting:
            self.waiting = await asyncio.wait_for(anext(self.batches), seconds)
            assert self.waiting
        return self.waiting.pop(0)

    async def nothing_more(self) -> None:
        with pytest.raises(TimeoutError):
            await self.next(0.3)


def failures(delivery: Delivery) -> int:
    event = codec.decode(delivery.body).event
    assert isinstance(event, HealthFailed)
    return event.failures


async def positions(tail: AsyncIterator[Envelope], count: int) -> list[int | None]:
    async with asyncio.timeout(15):
        return [(await anext(tail)).position for _ in range(count)]


# --- the inbox -------------------------------------------------------------------------------


async def test_what_is_said_is_delivered_in_order_and_once_when_acknowledged(connect: As) -> None:
    async with connect("health") as health, connect("recovery") as recovery:
        for number in range(5):
            await health.publish(INBOX, seen(number))
        consumer = Consumer(recovery, batch=2)
        for number in range(5):
            delivery = await consumer.next()
            assert (failures(delivery), delivery.subject) == (number, INBOX)
            assert not delivery.redelivered
            await delivery.ack()
        await consumer.nothing_more()


@fault(27, 35)
async def test_a_repeat_with_the_same_id_is_one_message(connect: As) -> None:
    async with connect("health") as health, connect("recovery") as recovery:
        again = seen(1)
        await health.publish(INBOX, again)
        await health.publish(INBOX, again)
        consumer = Consumer(recovery)
        await (await consumer.next()).ack()
        await consumer.nothing_more()


async def test_what_was_put_off_comes_again_and_what_is_no_good_does_not(connect: As) -> None:
    async with connect("health") as health, connect("recovery") as recovery:
        await health.publish(INBOX, seen(1))
        await health.publish(INBOX, seen(2))
        consumer = Consumer(recovery)
        await (await consumer.next()).nak(0.05)
        await (await consumer.next()).term()
        again = await consumer.next()
        assert (failures(again), again.redelivered) == (1, True)
        await again.ack()
        await consumer.nothing_more()


async def test_a_message_reaches_a_waiting_consumer_at_once(connect: As) -> None:
    async with connect("health") as health, connect("recovery") as recovery:
        waiting = asyncio.create_task(Consumer(recovery).next())
        await asyncio.sleep(0.2)
        started = asyncio.get_running_loop().time()
        await health.publish(INBOX, seen(1))
        await waiting
        assert asyncio.get_running_loop().time() - started < 0.5


async def test_what_the_inbox_still_holds_is_what_nobody_has_settled(connect: As) -> None:
    async with connect("health") as health, connect("recovery") as recovery:

        async def held() -> range:
            return await recovery.unsettled(subjects.STREAM_INBOX)

        async def settled(next_to_settle: int) -> None:
            async with asyncio.timeout(10):
                while (await held()).start != next_to_settle:
                    await asyncio.sleep(0.01)

        assert await held() == range(1, 1)
        for number in range(3):
            await health.publish(INBOX, seen(number))
        assert await held() == range(1, 4)
        consumer = Consumer(recovery)
        await (await consumer.next()).term()
        second = await consumer.next()
        await settled(2)
        await (await consumer.next()).ack()
        assert (await held()).start == 2, "the oldest that is not settled, whatever came after it"
        await second.ack()
        await settled(4)
        assert await held() == range(4, 4)


async def test_nothing_can_be_published_where_no_stream_listens(connect: As) -> None:
    async with connect("recovery") as recovery:
        with pytest.raises(BusError):
            await recovery.publish("dumont.telemetry.recovery.x", seen(1))


# --- the log as heard ------------------------------------------------------------------------


async def test_a_tail_hears_the_log_in_order_from_where_the_caller_is(connect: As) -> None:
    async with connect("recovery") as recovery, connect("api") as api:
        for position in range(1, 8):
            await recovery.publish(EVENTS, logged(position))
        tail = api.tail(
            stream=subjects.STREAM_EVENTS, subject=subjects.ALL_EVENTS, after_position=3
        )
        assert await positions(tail, 4) == [4, 5, 6, 7]
        following = asyncio.create_task(positions(tail, 2))
        await asyncio.sleep(0.1)
        for position in (8, 9):
            await recovery.publish(EVENTS, logged(position))
        assert await following == [8, 9]


async def test_a_tail_from_now_on_hears_only_what_is_new(connect: As) -> None:
    async with connect("recovery") as recovery, connect("health") as health:
        await recovery.publish(EVENTS, logged(1))
        tail = health.tail(stream=subjects.STREAM_EVENTS, subject=subjects.ALL_EVENTS)
        following = asyncio.create_task(positions(tail, 1))
        await asyncio.sleep(0.2)
        await recovery.publish(EVENTS, logged(2))
        assert await following == [2]


async def test_a_tail_of_one_workspace_hears_no_other(connect: As) -> None:
    other = WorkspaceName("other")
    async with connect("recovery") as recovery, connect("sync") as sync:
        for position, workspace in ((1, WS), (2, other), (3, WS)):
            subject = subjects.event(workspace, "RecoveryStarted")
            await recovery.publish(subject, logged(position, workspace))
        tail = sync.tail(
            stream=subjects.STREAM_EVENTS, subject=f"dumont.events.{WS}.>", after_position=0
        )
        assert await positions(tail, 2) == [1, 3]


@fault(27)
async def test_a_tail_drops_what_is_published_again(connect: As) -> None:
    async with connect("recovery") as recovery, connect("api") as api:
        for position in (1, 2, 1, 2, 3):
            again = logged(position)
            await recovery.publish(
                EVENTS,
                Envelope(
                    id=uuid4(),
                    source=again.source,
                    time=again.time,
                    event=again.event,
                    position=position,
                ),
            )
        tail = api.tail(stream=subjects.STREAM_EVENTS, subject=EVENTS, after_position=0)
        assert await positions(tail, 3) == [1, 2, 3]


async def test_the_relay_can_see_how_far_the_stream_is(connect: As) -> None:
    async with connect("recovery") as recovery:
        before = await recovery.stream_state(subjects.STREAM_EVENTS)
        assert before is not None
        assert (before.last_sequence, before.last_position) == (0, None)
        await recovery.publish(EVENTS, logged(41))
        after = await recovery.stream_state(subjects.STREAM_EVENTS)
        assert after is not None
        assert (after.last_sequence, after.last_position) == (1, 41)


async def test_events_published_together_are_all_there_in_order(connect: As) -> None:
    async with connect("recovery") as recovery, connect("api") as api:
        await recovery.publish_all([(EVENTS, logged(n)) for n in range(1, 301)])
        tail = api.tail(
            stream=subjects.STREAM_EVENTS, subject=subjects.ALL_EVENTS, after_position=0
        )
        assert await positions(tail, 300) == list(range(1, 301))
        following = asyncio.create_task(positions(tail, 3))
        await asyncio.sleep(0.05)
        await recovery.publish_all([(EVENTS, logged(n)) for n in range(301, 304)])
        assert await following == [301, 302, 303]


async def test_events_of_which_the_stream_has_some_are_there_once(connect: As) -> None:
    async with connect("recovery") as recovery, connect("api") as api:
        await recovery.publish(EVENTS, logged(1))
        await recovery.publish_all([(EVENTS, logged(n)) for n in range(1, 6)])
        await recovery.publish_all([(EVENTS, logged(n)) for n in range(1, 6)])
        await recovery.publish_all([(EVENTS, logged(6))])
        await recovery.publish_all([])
        tail = api.tail(
            stream=subjects.STREAM_EVENTS, subject=subjects.ALL_EVENTS, after_position=0
        )
        assert await positions(tail, 6) == [1, 2, 3, 4, 5, 6]
        state = await recovery.stream_state(subjects.STREAM_EVENTS)
        assert state is not None
        assert (state.last_sequence, state.last_position) == (6, 6)


async def test_events_for_a_stream_that_is_not_there_are_not_taken_for_published(
    connect: As,
) -> None:
    async with connect("recovery") as recovery:
        nowhere = "dumont.telemetry.recovery.x"
        with pytest.raises(BusError):
            await recovery.publish_all([(nowhere, logged(1)), (nowhere, logged(2))])


# --- requests, telemetry, the bucket ---------------------------------------------------------


async def test_a_request_is_answered_and_one_that_nobody_serves_fails(connect: As) -> None:
    async with connect("recovery") as recovery, connect("health") as health:
        with pytest.raises(BusError):
            await health.request(subjects.certificates("health"), b"?", timeout=0.5)

        async def answer(body: bytes) -> bytes:
            return b"yes " + body

        await recovery.serve(subjects.certificates("health"), answer)
        await recovery.entries()  # the server has heard of it
        assert await health.request(subjects.certificates("health"), b"ok", timeout=2) == b"yes ok"


async def test_an_answer_that_takes_too_long_is_an_error(connect: As) -> None:
    async with connect("recovery") as recovery, connect("sync") as sync:

        async def answer(body: bytes) -> bytes:
            await asyncio.sleep(1)
            return body

        await recovery.serve(subjects.certificates("sync"), answer)
        await recovery.entries()
        with pytest.raises(BusError):
            await sync.request(subjects.certificates("sync"), b"?", timeout=0.1)


async def test_telemetry_is_heard_by_who_listens(connect: As) -> None:
    async with connect("health") as health, connect("api") as api:
        heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

        async def hear(subject: str, body: bytes) -> None:
            await heard.put((subject, body))

        await api.subscribe("dumont.telemetry.>", hear)
        await api.stream_state(subjects.STREAM_EVENTS)  # the server has heard of it
        await health.publish_raw(subjects.telemetry("health", WS, "check"), b"{}")
        async with asyncio.timeout(5):
            assert await heard.get() == ("dumont.telemetry.health.train.check", b"{}")


async def test_the_bucket_holds_the_last_value_of_each_key(connect: As) -> None:
    async with connect("recovery") as recovery, connect("sync") as sync:
        assert await sync.entries() == {}
        await recovery.put("train", b"1")
        await recovery.put("other", b"2")
        await recovery.put("train", b"3")
        assert await sync.entries() == {"train": b"3", "other": b"2"}


async def test_a_change_of_the_bucket_wakes_who_waits_and_can_be_read_then(connect: As) -> None:
    async with connect("recovery") as recovery, connect("health") as health:
        changes = health.changes()
        await anext(changes)  # the first look is at once
        woken = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.1)
        await recovery.put("train", b"new")
        async with asyncio.timeout(2):
            await woken
        assert await health.entries() == {"train": b"new"}


# --- what only a real server does ------------------------------------------------------------


async def test_who_is_told_to_end_ends_although_the_answer_comes_at_the_same_moment(
    connect: As,
) -> None:
    """``asyncio.wait_for`` of Python 3.11 fails this: a loop around it would go on for ever."""
    async with connect("recovery") as recovery:
        for ask in (lambda: recovery.put("key", b"value"), recovery.entries):
            for turns in range(400):
                asking = asyncio.ensure_future(ask())
                for _ in range(turns % 100):
                    await asyncio.sleep(0)
                if asking.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await asking


@fault(22)
async def test_a_killed_server_loses_nothing_and_everybody_goes_on(own_nats: Nats) -> None:
    await empty(own_nats)
    async with AsyncExitStack() as stack:
        health = await stack.enter_async_context(user(own_nats, "health"))
        recovery = await stack.enter_async_context(user(own_nats, "recovery"))
        api = await stack.enter_async_context(user(own_nats, "api"))
        consumer = Consumer(recovery)
        tail = api.tail(stream=subjects.STREAM_EVENTS, subject=EVENTS, after_position=0)
        await health.publish(INBOX, seen(1))
        await (await consumer.next()).ack()
        await health.publish(INBOX, seen(2))
        await recovery.publish(EVENTS, logged(1))
        await recovery.put("train", b"1")
        assert await positions(tail, 1) == [1]
        waiting = asyncio.create_task(consumer.next())
        hearing = asyncio.create_task(positions(tail, 1))
        own_nats.kill()
        with pytest.raises(BusError):
            await health.publish(INBOX, seen(3))
        assert not health.connected
        own_nats.start()
        assert failures(await waiting) == 2
        await published(recovery, EVENTS, logged(2))
        assert await hearing == [2]
        assert await recovery.entries() == {"train": b"1"}


@fault(24, 26)
async def test_a_wiped_server_is_made_anew_and_nobody_stays_blind(own_nats: Nats) -> None:
    await empty(own_nats)
    async with AsyncExitStack() as stack:
        health = await stack.enter_async_context(user(own_nats, "health"))
        recovery = await stack.enter_async_context(user(own_nats, "recovery"))
        api = await stack.enter_async_context(user(own_nats, "api"))
        consumer = Consumer(recovery)
        tail = api.tail(stream=subjects.STREAM_EVENTS, subject=EVENTS, after_position=0)
        for position in range(1, 6):
            await recovery.publish(EVENTS, logged(position))
        assert await positions(tail, 5) == [1, 2, 3, 4, 5]
        await recovery.put("train", b"old")
        changes = health.changes()
        await anext(changes)
        waiting = asyncio.create_task(consumer.next(20))
        hearing = asyncio.create_task(positions(tail, 2))
        own_nats.wipe()
        assert await made_again(recovery)
        for position in range(1, 8):
            await published(recovery, EVENTS, logged(position))
        assert await hearing == [6, 7]
        await published(health, INBOX, seen(9))
        assert failures(await waiting) == 9
        await recovery.put("train", b"new")
        async with asyncio.timeout(10):
            while await health.entries() != {"train": b"new"}:
                await anext(changes)


async def made_again(recovery: NatsBus) -> bool:
    async with asyncio.timeout(10):
        while True:
            try:
                return await recovery.ensure_streams()
            except BusError:
                await asyncio.sleep(0.1)


async def published(bus: NatsBus, subject: str, envelope: Envelope) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                return await bus.publish(subject, envelope)
            except BusError:
                await asyncio.sleep(0.1)


@fault(31, 32)
async def test_an_event_that_does_not_decode_is_kept_aside_and_the_rest_goes_on(
    nats: Nats,
) -> None:
    await empty(nats)
    async with user(nats, "admin") as admin, user(nats, "api") as api:
        aside: asyncio.Queue[bytes] = asyncio.Queue()

        async def hear(_: str, body: bytes) -> None:
            await aside.put(body)

        await admin.subscribe(subjects.deadletter("api"), hear)
        await admin.publish_raw(EVENTS, b"rubbish")
        await admin.publish(EVENTS, logged(1))
        tail = api.tail(stream=subjects.STREAM_EVENTS, subject=EVENTS, after_position=0)
        assert await positions(tail, 1) == [1]
        async with asyncio.timeout(5):
            assert await aside.get() == b"rubbish"


@fault(33)
async def test_an_event_that_is_too_big_is_refused_for_good(nats: Nats) -> None:
    await empty(nats)
    async with user(nats, "health") as health:
        with pytest.raises(ValueError, match="too big"):
            await health.publish(INBOX, seen(1, evidence="x" * 300_000))
        with pytest.raises(ValueError, match="too many"):
            await health.publish(INBOX, seen(1, evidence="x" * 1_100_000))


async def test_a_wrong_password_is_said_so_at_once(nats: Nats) -> None:
    with pytest.raises(BusError, match="does not accept user 'health'"):
        async with NatsBus.connect(nats.url, "health", "wrong"):
            pass


async def test_who_comes_before_the_server_waits_for_it(own_nats: Nats) -> None:
    await empty(own_nats)
    own_nats.kill()

    async def first_words() -> None:
        async with user(own_nats, "health") as health:
            await published(health, INBOX, seen(1))

    early = asyncio.create_task(first_words())
    await asyncio.sleep(0.3)
    own_nats.start()
    async with asyncio.timeout(5):
        await early


FORGERIES = [
    ("health", EVENTS),
    ("sync", EVENTS),
    ("api", EVENTS),
    ("reader", EVENTS),
    ("reader", INBOX),
    ("sync", INBOX),
    ("api", INBOX),
    ("recovery", INBOX),
    ("health", f"$KV.{subjects.BUCKET_STATE}.train"),
    ("api", f"$KV.{subjects.BUCKET_STATE}.train"),
]


@fault(36, 95)
async def test_nobody_speaks_for_another(nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.bus.nats_bus.ANSWER_TIMEOUT", 0.3)
    await empty(nats)

    async def forge(name: str, subject: str) -> None:
        async with user(nats, name) as bus:
            with pytest.raises(BusError):
                await bus.publish(subject, seen(1))

    await asyncio.gather(*(forge(name, subject) for name, subject in FORGERIES))
    async with user(nats, "recovery") as recovery:
        for stream in (subjects.STREAM_EVENTS, subjects.STREAM_INBOX, KV_STREAM):
            state = await recovery.stream_state(stream)
            assert state is not None
            assert state.last_sequence == 0


@fault(36)
async def test_what_the_bus_does_not_allow_is_said_with_the_name_of_who_tried(nats: Nats) -> None:
    async with user(nats, "health") as health:
        with capture_logs() as said:
            await health.publish_raw("dumont.inbox.sync.train.SyncCompleted", b"{}")
            async with asyncio.timeout(5):
                while not any(line["log_level"] == "error" for line in said):
                    await asyncio.sleep(0.01)
        (refused,) = [line for line in said if line["log_level"] == "error"]
        assert refused["user"] == "health"
        assert "dumont.inbox.sync.train.synccompleted" in refused["reason"].lower()


FORBIDDEN = [
    "$JS.API.STREAM.DELETE.DUMONT_EVENTS",
    "$JS.API.STREAM.PURGE.DUMONT_INBOX",
    "$JS.API.STREAM.UPDATE.DUMONT_EVENTS",
    "$JS.API.STREAM.MSG.DELETE.DUMONT_EVENTS",
    "$JS.API.CONSUMER.DELETE.DUMONT_INBOX.recovery",
    "$JS.API.CONSUMER.CREATE.DUMONT_INBOX.thief",
    "$JS.API.DIRECT.GET.DUMONT_INBOX",
    "$JS.API.STREAM.CREATE.MINE",
]


@pytest.mark.parametrize("name", [name for name in USERS if name != "admin"])
async def test_nobody_but_the_admin_can_take_anything_from_the_server(
    nats: Nats, name: str
) -> None:
    await empty(nats)
    async with user(nats, name) as bus:
        answers = await asyncio.gather(
            *(bus.request(subject, b"{}", timeout=0.3) for subject in FORBIDDEN),
            return_exceptions=True,
        )
    assert all(isinstance(answer, BusError) for answer in answers)


async def test_nobody_hears_the_answers_to_another(nats: Nats) -> None:
    await empty(nats)
    overheard: list[bytes] = []

    async def hear(_: str, body: bytes) -> None:
        overheard.append(body)

    async def answer(_: bytes) -> bytes:
        return b"secret"

    certificates = subjects.certificates("health")
    async with AsyncExitStack() as stack:
        health, recovery, reader, sync = [
            await stack.enter_async_context(user(nats, name))
            for name in ("health", "recovery", "reader", "sync")
        ]
        for bus in (reader, sync):
            for subject in ("_INBOX_health.>", "dumont.inbox.>", "dumont.certificates.>"):
                await bus.subscribe(subject, hear)
            await bus.stream_state(subjects.STREAM_EVENTS)
        await recovery.serve(certificates, answer)
        await recovery.entries()
        assert await health.request(certificates, b"?", timeout=2) == b"secret"
        await health.publish(INBOX, seen(1))
        assert overheard == []


async def test_a_stock_client_can_follow_the_log_and_the_state_as_reader(nats: Nats) -> None:
    await empty(nats)
    async with user(nats, "recovery") as recovery:
        await recovery.publish(EVENTS, logged(1))
        await recovery.put("train", b"value")
        client = await nats_py.connect(
            nats.url, user="reader", password=nats.passwords["reader"], max_reconnect_attempts=1
        )
        stream = client.jetstream()
        ordered = await stream.subscribe(subjects.ALL_EVENTS, ordered_consumer=True)
        assert codec.decode((await ordered.next_msg(timeout=2)).data).position == 1
        pulled = await stream.pull_subscribe(
            subjects.ALL_EVENTS, stream=subjects.STREAM_EVENTS, durable=None
        )
        assert len(await pulled.fetch(1, timeout=2)) == 1
        bucket = await stream.key_value(subjects.BUCKET_STATE)
        assert (await bucket.get("train")).value == b"value"
        assert await bucket.keys() == ["train"]
        await client.close()


@fault(34)
async def test_a_long_backlog_comes_oldest_first_in_pieces_that_fit_in_memory(nats: Nats) -> None:
    await empty(nats)
    async with user(nats, "health") as health, user(nats, "recovery") as recovery:
        for first in range(0, 1000, 50):
            await asyncio.gather(*(health.publish(INBOX, seen(first + n)) for n in range(50)))
        sizes, heard = [], []
        backlog = recovery.consume(stream=subjects.STREAM_INBOX, durable=DURABLE_RECOVERY)
        async with asyncio.timeout(30):
            async for batch in backlog:
                sizes.append(len(batch))
                heard += [failures(delivery) for delivery in batch]
                for delivery in batch:
                    await delivery.ack()
                if len(heard) >= 1000:
                    break
        assert max(sizes) <= 100
        assert sorted(heard) == list(range(1000))
        assert [n // 50 for n in heard] == sorted(n // 50 for n in heard), "oldest first"


@fault(34)
async def test_a_full_inbox_refuses_the_newest_and_keeps_what_nobody_has_read(nats: Nats) -> None:
    await empty(nats)
    client = await nats_py.connect(
        nats.url, user="admin", password=nats.passwords["admin"], inbox_prefix=b"_INBOX_admin"
    )
    config = (await client.jetstream().stream_info(subjects.STREAM_INBOX)).config
    await client.jetstream().update_stream(config.evolve(max_bytes=5_000))
    await client.close()
    async with user(nats, "health") as health, user(nats, "recovery") as recovery:
        with pytest.raises(BusError):
            for number in range(100):
                await health.publish(INBOX, seen(number))
        consumer = Consumer(recovery)
        first = await consumer.next()
        assert failures(first) == 0


async def test_set_up_is_repeatable_and_puts_changed_streams_right(nats: Nats) -> None:
    await empty(nats)
    async with user(nats, "admin") as admin:
        assert not await admin.ensure_streams()
        await admin.update_streams()
    async with user(nats, "recovery") as recovery:
        assert not await recovery.ensure_streams()


async def test_set_up_gives_a_durable_of_before_the_times_of_this_version(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    await empty(nats)
    async with user(nats, "health") as health, user(nats, "recovery") as recovery:
        for number in range(2):
            await health.publish(INBOX, seen(number))
        consumer = Consumer(recovery, batch=1)
        await (await consumer.next()).ack()
        assert failures(await consumer.next()) == 1, "taken, and not settled"
        newer = {**CONSUMER, "ack_wait": SECOND // 2, "max_ack_pending": 3}
        monkeypatch.setattr("shared.bus.nats_bus.CONSUMER", newer)
        async with user(nats, "admin") as admin:
            await admin.update_streams()
            held = await admin._api(f"CONSUMER.INFO.{subjects.STREAM_INBOX}.{DURABLE_RECOVERY}")
        assert {name: held["config"][name] for name in newer} == newer
        again = await consumer.next()
        assert (failures(again), again.redelivered) == (1, True), "it is where it was"
        await again.ack()


async def test_what_recovery_may_make_is_exactly_what_is_missing(own_nats: Nats) -> None:
    async with user(own_nats, "recovery") as recovery:
        assert await recovery.stream_state(subjects.STREAM_EVENTS) is None
        assert await recovery.ensure_streams()
        assert not await recovery.ensure_streams()
    with pytest.raises(NotFoundError):
        client = await nats_py.connect(
            own_nats.url,
            user="admin",
            password=own_nats.passwords["admin"],
            inbox_prefix=b"_INBOX_admin",
        )
        try:
            await client.jetstream().stream_info("OTHER")
        except NatsError:
            await client.close()
            raise


def test_the_configuration_holds_no_password_and_refuses_one_that_would_break_it() -> None:
    passwords = {name: f"secret{name}" for name in USERS}
    config = ServerConfig(listen="127.0.0.1:4222", store="/data", passwords="./passwords.conf")
    assert not any(password in config.render() for password in passwords.values())
    assert all(password in password_file(passwords) for password in passwords.values())
    with pytest.raises(ValueError, match="letters and digits"):
        password_file(passwords | {"api": '"; no_auth_user: admin'})


@pytest.mark.parametrize(
    ("pattern", "subject", "matched"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.b.c", "a.b", False),
        ("a.*.c", "a.b.c", True),
    ],
)
def test_memory_matches_subjects_as_nats_does(pattern: str, subject: str, matched: bool) -> None:
    assert matches(pattern, subject) is matched
