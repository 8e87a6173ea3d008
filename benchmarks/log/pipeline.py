"""From the bus through the log into a projection, until it is acknowledged: facts per second.

Ours is the service's own loop: the inbox read in batches, decided upon, appended, folded into the
states, acknowledged. The peer does what its documentation teaches for each message: the event into
its recorder, and how far the reader has come into its tracking table, in one transaction.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import nats
from eventsourcing.persistence import Mapper, Tracking
from eventsourcing.postgres import PostgresProcessRecorder
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig

from benchmarks.log import peer
from benchmarks.log.append import TERM_SECONDS
from benchmarks.log.payload import fact
from benchmarks.measures import Measured
from benchmarks.sizes import Sizes
from services.recovery.inbox import DURABLE, listen_forever
from services.recovery.service import Recovery
from shared import codec, subjects
from shared.bus.nats_bus import NatsBus
from shared.clock import new_id, now
from shared.envelope import Envelope
from shared.eventlog.writer import PostgresWriter
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName
from tests.support.servers import Nats, Postgres, nats_server

RUNS = 5
WORKSPACES = [WorkspaceName(f"w{number}") for number in range(4)]
PEER_SHARE = 20
"""The peer gets one fact for so many of ours: it would take minutes otherwise."""

PEER_STREAM = "PEER"
PEER_SUBJECT = "peer.inbox"
WINDOW = 200


async def fill(stream: JetStreamContext, messages: Sequence[tuple[str, bytes]]) -> None:
    for start in range(0, len(messages), WINDOW):
        window = messages[start : start + WINDOW]
        await asyncio.gather(*(stream.publish(subject, body) for subject, body in window))


class Ours:
    """Recovery with workspaces that it knows, and nothing to do for them."""

    def __init__(self, bus: NatsBus, stream: JetStreamContext, recovery: Recovery) -> None:
        self.bus = bus
        self.stream = stream
        self.recovery = recovery

    @classmethod
    async def ready(cls, bus: NatsBus, stream: JetStreamContext, log: PostgresWriter) -> "Ours":
        term = await log.acquire("bench", TERM_SECONDS)
        assert term is not None
        recovery = Recovery(
            log,
            term=lambda: term,
            now=now,
            new_id=new_id,
            installation="bench",
            ports=range(20000, 20100),
        )
        for name in WORKSPACES:
            event = RequestReceived(
                workspace=name,
                epoch=0,
                verb="register",
                actor="bench",
                arguments={"path": "/workspace", "origin": "empty"},
            )
            await recovery.listen(Envelope(id=new_id(), source="api", time=now(), event=event))
        return cls(bus, stream, recovery)

    def recorded(self) -> int:
        return sum(folded.version for folded in self.recovery.states.values())

    async def rate(self, count: int) -> float:
        facts = [fact(n, WORKSPACES[n % len(WORKSPACES)]) for n in range(count)]
        subject = {name: subjects.inbox("health", name, "HealthFailed") for name in WORKSPACES}
        await fill(self.stream, [(subject[f.event.workspace], codec.encode(f)) for f in facts])
        wanted = self.recorded() + count
        began = time.perf_counter()
        listening = asyncio.create_task(listen_forever(self.bus, self.recovery))
        while self.recorded() < wanted or await self._unsettled():
            await asyncio.sleep(0.005)
        taken = time.perf_counter() - began
        listening.cancel()
        await asyncio.wait([listening])
        return count / taken

    async def _unsettled(self) -> bool:
        info = await self.stream.consumer_info(subjects.STREAM_INBOX, DURABLE)
        return bool(info.num_pending or info.num_ack_pending)


class Theirs:
    def __init__(self, stream: JetStreamContext, recorder: PostgresProcessRecorder) -> None:
        self.stream = stream
        self.recorder = recorder
        self.mapper: Mapper[UUID] = peer.mapper()
        self.originator = uuid4()
        self.version = 0

    async def rate(self, count: int, batch: int) -> float:
        """Facts per second, fetched ``batch`` at a time."""
        facts = [fact(n, WORKSPACES[n % len(WORKSPACES)]) for n in range(count)]
        await fill(self.stream, [(PEER_SUBJECT, codec.encode(fact)) for fact in facts])
        pull = await self.stream.pull_subscribe(PEER_SUBJECT, durable="peer", stream=PEER_STREAM)
        began = time.perf_counter()
        done = 0
        while done < count:
            for message in await pull.fetch(batch, timeout=5):
                self._process(message.data)
                await message.ack()
                done += 1
        await self.stream.consumer_info(PEER_STREAM, "peer")
        taken = time.perf_counter() - began
        await pull.unsubscribe()
        return count / taken

    def _process(self, body: bytes) -> None:
        said = json.loads(body)
        self.version += 1
        event = peer.from_json(said, originator=self.originator, version=self.version)
        self.recorder.insert_events(
            peer.stored([event], self.mapper), tracking=Tracking("inbox", self.version)
        )


async def measure(server: Postgres, say: Callable[[str], None], sizes: Sizes) -> list[Measured]:
    with tempfile.TemporaryDirectory() as directory, nats_server(Path(directory)) as bus:
        return await _measure(server, bus, say, sizes)


async def _measure(
    server: Postgres, nats_: Nats, say: Callable[[str], None], sizes: Sizes
) -> list[Measured]:
    await server.empty()
    rates: dict[str, list[float]] = {"ours": [], "one by one": [], "fetched together": []}
    passwords = nats_.passwords
    admin = await nats.connect(
        nats_.url, user="admin", password=passwords["admin"], inbox_prefix=b"_INBOX_admin"
    )
    stream = admin.jetstream(timeout=10)
    async with NatsBus.connect(nats_.url, "admin", passwords["admin"]) as made:
        await made.ensure_streams()
    await stream.add_stream(StreamConfig(name=PEER_STREAM, subjects=[PEER_SUBJECT]))
    await stream.add_consumer(PEER_STREAM, ConsumerConfig(durable_name="peer"))
    with peer.datastore(server) as store:
        theirs = Theirs(stream, peer.processor(store, "processed"))
        async with (
            NatsBus.connect(nats_.url, "recovery", passwords["recovery"]) as bus,
            PostgresWriter(server.dsn("recovery"), server.passwords["recovery"]) as log,
        ):
            ours = await Ours.ready(bus, stream, log)
            few = max(20, sizes.delivered // PEER_SHARE)
            for run in range(-1, RUNS):  # the first only warms up
                found = {
                    "ours": await ours.rate(sizes.delivered),
                    "one by one": await theirs.rate(few, 1),
                    "fetched together": await theirs.rate(few, 100),
                }
                if run >= 0:
                    for name, rate in found.items():
                        rates[name].append(rate)
                say(f"pipeline: run {run + 1} of {RUNS}")
    await admin.close()
    return [
        Measured(
            measure=f"bus to log to projection{how}",
            ours=rates["ours"],
            peer=rates[name],
            peer_name=f"{peer.NAME}, recorder and tracking in a transaction an event",
            unit="events/s",
            note=f"messages {name}",
        )
        for how, name in (
            ("", "one by one"),
            (", the peer's messages fetched together", "fetched together"),
        )
    ]
