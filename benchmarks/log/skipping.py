"""A reader that follows the log while eight appenders write: does it see every event?

Identity columns are given before the commit, so a reader by position passes over what commits
late. Our positions are given under one lease; the peer has a fast mode that gives up its lock.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from uuid import uuid4

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder

from benchmarks.log import peer
from benchmarks.log.append import TERM_SECONDS
from benchmarks.log.payload import fact
from benchmarks.measures import Measured
from benchmarks.sizes import Sizes
from shared.eventlog.reader import PostgresReader
from shared.eventlog.writer import PostgresWriter
from shared.machines import WorkspaceName
from tests.support.servers import Postgres

RUNS = 5
APPENDERS = 8
BATCH = 10
PAGE = 1000
QUIET_SECONDS = 1.0
"""A reader that saw nothing new for so long, after the last append, has seen what it will see."""


async def ours_skipped(server: Postgres, events: int) -> int:
    await server.empty()
    password = server.passwords["recovery"]
    writers_done = asyncio.Event()
    async with PostgresWriter(server.dsn("recovery"), password) as log:
        term = await log.acquire("bench", TERM_SECONDS)
        assert term is not None

        async def append(name: WorkspaceName) -> None:
            for version in range(0, events // APPENDERS, BATCH):
                facts = [fact(n, name) for n in range(BATCH)]
                await log.append(facts, term=term, expected_version=version)

        following = asyncio.create_task(_follow(server, writers_done))
        async with asyncio.TaskGroup() as group:
            for number in range(APPENDERS):
                group.create_task(append(WorkspaceName(f"w{number}")))
        writers_done.set()
        return await log.head() - await following


async def _follow(server: Postgres, done: asyncio.Event) -> int:
    """How many events a reader meets that always goes on after the last position it saw."""
    seen = last = 0
    async with PostgresReader(server.dsn("api"), server.passwords["api"]) as log:
        while True:
            over = done.is_set()
            if page := await log.read(after=last, limit=PAGE):
                seen, last = seen + len(page), page[-1].position or 0
            elif over:
                return seen
            else:
                await asyncio.sleep(0.001)


def theirs_skipped(recorder: PostgresApplicationRecorder, events: int) -> int:
    done = threading.Event()
    seen: list[int] = []
    follower = threading.Thread(target=_follow_theirs, args=(recorder, done, seen))
    appenders = [
        threading.Thread(target=_append_theirs, args=(recorder, events // APPENDERS))
        for _ in range(APPENDERS)
    ]
    for thread in (follower, *appenders):
        thread.start()
    for thread in appenders:
        thread.join()
    done.set()
    follower.join()
    return events // APPENDERS // BATCH * BATCH * APPENDERS - len(seen)


def _append_theirs(recorder: PostgresApplicationRecorder, events: int) -> None:
    originator = uuid4()
    body = b"x" * 400
    for version in range(0, events // BATCH * BATCH, BATCH):
        recorder.insert_events(
            [
                StoredEvent(
                    originator_id=originator,
                    originator_version=version + n,
                    topic="HealthFailed",
                    state=body,
                )
                for n in range(BATCH)
            ]
        )


def _follow_theirs(
    recorder: PostgresApplicationRecorder, done: threading.Event, seen: list[int]
) -> None:
    last = 0
    quiet_since = time.monotonic()
    while not done.is_set() or time.monotonic() - quiet_since < QUIET_SECONDS:
        page = recorder.select_notifications(start=last + 1, limit=PAGE)
        if page:
            seen.extend(notification.id for notification in page)
            last = seen[-1]
            quiet_since = time.monotonic()


async def measure(server: Postgres, say: Callable[[str], None], sizes: Sizes) -> list[Measured]:
    events = sizes.followed // (APPENDERS * BATCH) * (APPENDERS * BATCH)
    ours: list[float] = []
    theirs: list[float] = []
    with peer.datastore(server, pool_size=APPENDERS + 1, db_functions=True) as store:
        for run in range(RUNS):
            ours.append(await ours_skipped(server, events))
            recorder = peer.recorder(store, f"followed_{run}")
            theirs.append(await asyncio.to_thread(theirs_skipped, recorder, events))
            say(f"skipping: run {run + 1} of {RUNS}: {ours[-1]:.0f} and {theirs[-1]:.0f}")
    return [
        Measured(
            measure="events skipped by a tailing reader under 8 appenders",
            ours=ours,
            peer=theirs,
            peer_name=f"{peer.NAME}, POSTGRES_ENABLE_DB_FUNCTIONS=yes",
            unit="events",
            note=f"of {events:,} in each run",
        )
    ]
