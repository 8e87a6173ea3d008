"""Durable appends per second by one writer that waits for each.

The first three are recorder against recorder: both get events that their own side has encoded, and
end when they are on disk; ours chains them by hash and checks lease and version meanwhile. The
others begin with event objects: ours encodes and checks that the event can be read back, theirs
maps; and, for those who want it hard, the peer's bytes ready-made and all of our work timed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

from eventsourcing.persistence import Mapper
from eventsourcing.postgres import PostgresApplicationRecorder

from benchmarks.log import peer
from benchmarks.log.payload import fact
from benchmarks.measures import Measured
from benchmarks.sizes import Sizes
from shared.eventlog.canonical import Encoded, encoded
from shared.eventlog.port import Batch
from shared.eventlog.writer import PostgresWriter
from shared.machines import WorkspaceName
from tests.support.servers import Postgres

RUNS = 7
APPENDS = {1: 600, 10: 300, 100: 100}
"""How many appends of each batch size a run has."""

WORKSPACE = WorkspaceName("train")
TERM_SECONDS = 3600.0


@dataclass(slots=True)
class Ours:
    log: PostgresWriter
    term: int
    version: int = 0

    async def rate_of_encoded(self, batch: int, appends: int) -> float:
        """Events per second of what was encoded before the clock started."""
        batches = [self._encoded(batch, n * batch) for n in range(appends)]
        self.version += batch * appends
        began = time.perf_counter()
        for events in batches:
            await self.log.record(events, term=self.term)
        return batch * appends / (time.perf_counter() - began)

    def _encoded(self, batch: int, ahead: int) -> list[Encoded]:
        facts = [fact(n, WORKSPACE) for n in range(batch)]
        expected = Batch(envelopes=facts, expected_version=self.version + ahead)
        return encoded([expected], term=self.term)

    async def rate(self, batch: int, appends: int) -> float:
        """Events per second, with all that an append does."""
        batches = [[fact(n, WORKSPACE) for n in range(batch)] for _ in range(appends)]
        began = time.perf_counter()
        for facts in batches:
            await self.log.append(facts, term=self.term, expected_version=self.version)
            self.version += batch
        return batch * appends / (time.perf_counter() - began)


@dataclass(slots=True)
class Theirs:
    recorder: PostgresApplicationRecorder
    mapper: Mapper[UUID]
    originator: UUID
    version: int = 0

    def rate(self, batch: int, appends: int) -> float:
        """Events per second, with the mapping of events to bytes."""
        batches = list(self._batches(batch, appends))
        began = time.perf_counter()
        for events in batches:
            self.recorder.insert_events(peer.stored(events, self.mapper))
        return batch * appends / (time.perf_counter() - began)

    def rate_of_bytes(self, batch: int, appends: int) -> float:
        """Events per second of what was mapped before the clock started."""
        batches = [peer.stored(e, self.mapper) for e in self._batches(batch, appends)]
        began = time.perf_counter()
        for events in batches:
            self.recorder.insert_events(events)
        return batch * appends / (time.perf_counter() - began)

    def _batches(self, batch: int, appends: int) -> Iterator[list[peer.HealthFailedAsTheirs]]:
        for _ in range(appends):
            yield [
                peer.theirs(
                    fact(n, WORKSPACE), originator=self.originator, version=self.version + n
                )
                for n in range(batch)
            ]
            self.version += batch


async def measure(server: Postgres, say: Callable[[str], None], sizes: Sizes) -> list[Measured]:
    await server.empty()
    rates: dict[tuple[str, int], list[float]] = {}
    with peer.datastore(server) as store:
        theirs = Theirs(peer.recorder(store, "appended"), peer.mapper(), uuid4())
        async with PostgresWriter(server.dsn("recovery"), server.passwords["recovery"]) as log:
            term = await log.acquire("bench", TERM_SECONDS)
            assert term is not None
            ours = Ours(log, term)
            for run in range(-1, RUNS):  # the first only warms up
                for batch, most in APPENDS.items():
                    appends = max(2, int(most * sizes.scale))
                    found = {
                        "encoded": await ours.rate_of_encoded(batch, appends),
                        "bytes": theirs.rate_of_bytes(batch, appends),
                        "ours": await ours.rate(batch, appends),
                        "theirs": theirs.rate(batch, appends),
                    }
                    if run >= 0:
                        for name, rate in found.items():
                            rates.setdefault((name, batch), []).append(rate)
                say(f"append: run {run + 1} of {RUNS}")
    return [
        Measured(
            measure=f"append, batches of {batch}{how}",
            ours=rates[ours_of, batch],
            peer=rates[theirs_of, batch],
            peer_name=f"{peer.NAME} {which}",
            unit="events/s",
        )
        for how, ours_of, theirs_of, which in (
            ("", "encoded", "bytes", "recorder"),
            (", from event objects", "ours", "theirs", "mapper and recorder"),
            (", our objects against its bytes", "ours", "bytes", "recorder"),
        )
        for batch in APPENDS
    ]
