"""The state of a million events: folded in memory, beside a projection that is kept by an upsert.

The events are those of a real story (a first start, a lost GPU, the way back), told again and again
by other workspaces, through the fold that recovery itself uses. The other side writes the state and
how far it has come, in one transaction for each event; it is timed on a few and extrapolated.
"""

import asyncio
import time
from collections.abc import Callable

from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.measures import Measured
from benchmarks.sizes import Sizes
from services.recovery.domain.evolution import evolve
from services.recovery.domain.state import State
from shared.events import Event
from tests.support import virtual_time
from tests.support.servers import Postgres
from tests.support.world import WS, World
from tests.unit.recovery.test_service import the_whole_story

RUNS = 5
UPSERTS = 400

_TABLES = (
    "CREATE TABLE projection (workspace text PRIMARY KEY, version int, state jsonb)",
    "CREATE TABLE checkpoint (name text PRIMARY KEY, position bigint)",
)
_UPSERT = text("""
INSERT INTO projection VALUES (:workspace, :version, CAST(:state AS jsonb))
ON CONFLICT (workspace) DO UPDATE SET version = excluded.version, state = excluded.state
""")
_CHECKPOINT = text("""
INSERT INTO checkpoint VALUES ('states', :position)
ON CONFLICT (name) DO UPDATE SET position = excluded.position
""")


def story() -> list[Event]:
    world = World()
    virtual_time.run(the_whole_story(world))
    return [envelope.event for envelope in virtual_time.run(world.log.read())]


def folded(events: list[Event], count: int) -> float:
    """Events per second; the whole story again and again, each time by a new workspace."""
    began = time.perf_counter()
    for _ in range(count // len(events)):
        state = State(workspace=WS)
        for event in events:
            state = evolve(state, event)
    return count / (time.perf_counter() - began)


async def measure(server: Postgres, say: Callable[[str], None], sizes: Sizes) -> list[Measured]:
    events = await asyncio.to_thread(story)  # it has a loop of its own
    encode = TypeAdapter(State).dump_json
    ours: list[float] = []
    theirs: list[float] = []
    await server.query("CREATE DATABASE projections")
    engine = create_async_engine(
        server.server.dsn("admin", database="projections"),
        connect_args={"password": server.passwords["admin"]},
    )
    async with engine.begin() as connection:
        for table in _TABLES:
            await connection.execute(text(table))
    for run in range(RUNS):
        ours.append(folded(events, sizes.folded))
        began = time.perf_counter()
        state = State(workspace=WS)
        for number in range(UPSERTS):
            state = evolve(state, events[number % len(events)])
            async with engine.begin() as connection:
                row = {"workspace": WS, "version": number, "state": encode(state).decode()}
                await connection.execute(_UPSERT, row)
                await connection.execute(_CHECKPOINT, {"position": number})
        theirs.append(UPSERTS / (time.perf_counter() - began))
        say(f"fold: run {run + 1} of {RUNS}")
    await engine.dispose()
    return [
        Measured(
            measure="a million events folded in memory",
            ours=ours,
            peer=theirs,
            peer_name="one upsert an event",
            unit="events/s",
            note=f"{sizes.folded:,} events folded; the upserts extrapolated from {UPSERTS}",
        )
    ]
