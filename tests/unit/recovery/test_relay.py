"""The relay says the log on the bus: all of it, in order, and only while its lease lives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from services.recovery.relay import BATCH, Relay
from shared import failpoints
from shared.bus.memory import MemoryBus
from shared.bus.port import BusError
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.eventlog.port import LeaseLostError
from shared.events.recovery import RecoveryStarted
from shared.machines import WorkspaceName
from shared.subjects import STREAM_EVENTS
from shared.waiting import News
from tests.support.faults import fault

pytestmark = pytest.mark.anyio

WS = WorkspaceName("train")


@dataclass
class World:
    """A log, a bus and the relay between them."""

    log: MemoryLog = field(default_factory=MemoryLog)
    bus: MemoryBus = field(default_factory=MemoryBus)
    changed: News = field(default_factory=News)
    term: int | None = None
    said: int = 0

    def live_term(self) -> int:
        if self.term is None:
            raise LeaseLostError("over")
        return self.term

    def relay(self, bus: MemoryBus | None = None) -> Relay:
        return Relay(
            self.log, bus or self.bus, term=self.live_term, changed=self.changed, poll=0.05
        )

    async def say(self, count: int = 1) -> None:
        assert self.term is not None
        for _ in range(count):
            event = RecoveryStarted(workspace=WS, epoch=0, reason="test")
            envelope = Envelope(
                id=uuid4(), source="recovery", time=datetime(2026, 1, 1, tzinfo=UTC), event=event
            )
            await self.log.append([envelope], term=self.term, expected_version=self.said)
            self.said += 1
        self.changed.set()

    def heard(self, bus: MemoryBus | None = None) -> list[int | None]:
        return [envelope.position for envelope in (bus or self.bus).published(STREAM_EVENTS)]

    async def until_heard(self, last: int, bus: MemoryBus | None = None) -> None:
        async with asyncio.timeout(5):
            while last not in self.heard(bus):
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def running(self, bus: MemoryBus | None = None) -> AsyncIterator[None]:
        task = asyncio.create_task(self.relay(bus).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world() -> World:
    world = World()
    world.term = await world.log.acquire("test", 60)
    return world


async def test_everything_in_the_log_is_published_once_in_order_and_remembered(
    world: World,
) -> None:
    await world.say(BATCH + 5)
    async with world.running():
        await world.until_heard(BATCH + 5)
        await world.say(3)
        await world.until_heard(BATCH + 8)
    assert world.heard() == list(range(1, BATCH + 9))
    assert await world.log.cursor() == BATCH + 8


async def test_a_new_relay_goes_on_where_the_stream_stands(world: World) -> None:
    await world.say(5)
    relay = world.relay()
    assert await relay.step()
    await world.say(2)
    assert await world.relay().step()
    assert world.heard() == list(range(1, 8))


@fault(4, 35)
async def test_a_relay_that_died_before_it_remembered_says_nothing_twice(world: World) -> None:
    await world.say(3)
    for envelope in await world.log.read():
        await world.bus.publish(f"dumont.events.{WS}.RecoveryStarted", envelope)
    assert await world.log.cursor() == 0
    assert not await world.relay().step()
    assert world.heard() == [1, 2, 3]


@fault(24, 26)
async def test_a_stream_that_came_back_empty_is_filled_again_from_the_log(world: World) -> None:
    await world.say(7)
    assert await world.relay().step()
    fresh = MemoryBus()
    async with world.running(fresh):
        await world.until_heard(7, fresh)
    assert world.heard(fresh) == list(range(1, 8))


@fault(26)
async def test_a_stream_that_came_back_older_gets_what_it_lacks(world: World) -> None:
    await world.say(7)
    assert await world.relay().step()
    older = MemoryBus()
    for envelope in await world.log.read(limit=4):
        await older.publish(f"dumont.events.{WS}.RecoveryStarted", envelope)
    async with world.running(older):
        await world.until_heard(7, older)
    assert world.heard(older) == list(range(1, 8))


@fault(22)
async def test_a_lost_bus_is_waited_for_and_nothing_is_left_out(world: World) -> None:
    async with world.running():
        await world.say(2)
        await world.until_heard(2)
        world.bus.connected = False
        await world.say(BATCH + 1)  # what was not taken, and more to say after it
        with pytest.raises(BusError):
            await world.bus.entries()
        await asyncio.sleep(0.05)
        world.bus.connected = True
        await world.until_heard(BATCH + 3)
    assert world.heard() == list(range(1, BATCH + 4))


async def test_a_silent_log_is_waited_for(world: World) -> None:
    async with world.running():
        world.log.answering = False
        await asyncio.sleep(0.05)
        world.log.answering = True
        await world.say(1)
        await world.until_heard(1)


@fault(47)
async def test_nothing_is_published_without_a_live_term(world: World) -> None:
    await world.say(2)
    assert world.term is not None
    await world.log.release(world.term)
    with pytest.raises(LeaseLostError):
        await world.relay().step()
    world.term = None
    with pytest.raises(LeaseLostError):
        await world.relay().run()
    assert world.heard() == []


async def test_another_term_goes_on_where_the_last_one_ended(world: World) -> None:
    await world.say(2)
    assert await world.relay().step()
    world.term = await world.log.acquire("test", 60)
    await world.say(1)
    assert await world.relay().step()
    assert world.heard() == [1, 2, 3]


@dataclass
class BreakingBus(MemoryBus):
    """It takes ``room`` events and then is gone, in the middle of what it was given."""

    room: int = 0

    async def publish(self, subject: str, envelope: Envelope) -> None:
        if not self.room:
            raise BusError("gone")
        self.room -= 1
        await MemoryBus.publish(self, subject, envelope)


@pytest.mark.parametrize("room", range(8))
async def test_a_bus_that_breaks_in_the_middle_of_a_batch_gets_the_rest_once(
    world: World, room: int
) -> None:
    bus = BreakingBus(room=room)
    await world.say(7)
    relay = world.relay(bus)
    with contextlib.suppress(BusError):
        await relay.step()
    assert await world.log.cursor() == (7 if room == 7 else 0), "what is not published is not left"
    bus.room = 100
    async with world.running(bus):
        await world.until_heard(7, bus)
    assert world.heard(bus) == list(range(1, 8))


class Killed(BaseException):
    """What kill -9 looks like from inside."""


async def test_a_relay_killed_after_it_published_says_nothing_twice(world: World) -> None:
    await world.say(7)

    def kill(place: str) -> None:
        if place == "relay.published":
            raise Killed

    failpoints.arm(kill)
    try:
        with pytest.raises(Killed):
            await world.relay().step()
    finally:
        failpoints.arm(None)
    assert await world.log.cursor() == 0
    async with world.running():
        await world.say(1)
        await world.until_heard(8)
    assert world.heard() == list(range(1, 9))
