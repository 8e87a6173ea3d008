"""A deadline that was met is not missed because nobody could read the fact that met it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from services.recovery.driver import Driver
from services.recovery.inbox import BACKLOG_SECONDS_MAX, Backlog, listen_forever
from services.recovery.service import Recovery
from shared import subjects
from shared.bus.memory import MemoryBus
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.events import SPEAKER, Event
from shared.events.health import HealthFailed
from shared.events.sync import RestoreDone
from shared.machines import MachineId, Role
from tests.support import virtual_time
from tests.support.examples import WS, Story
from tests.support.faults import fault
from tests.support.world import Ids

DEADLINE = 600.0
"""When the restore of the story must be done, in seconds from its beginning."""

MANY = 250
"""More facts than the inbox takes in at once."""


@dataclass
class Scene:
    """A workspace whose restore is under way, and the bus on which its end is told."""

    log: MemoryLog = field(default_factory=lambda: MemoryLog(now=virtual_time.now))
    bus: MemoryBus = field(default_factory=lambda: MemoryBus(ack_wait=5.0))
    story: Story = field(default_factory=Story)
    new_id: Ids = field(default_factory=Ids)

    async def begin(self) -> None:
        """Bring the log to where the restore runs."""
        self.story.searching()
        self.story.restoring()
        envelopes = [self._said(event) for event in self.story.told]
        term = await self.log.acquire("test", 1e6)
        assert term is not None
        await self.log.append(envelopes, term=term, expected_version=0)

    def _said(self, event: Event) -> Envelope:
        source = SPEAKER.get(event.type, "recovery")
        return Envelope(id=self.new_id(), source=source, time=virtual_time.now(), event=event)

    async def say(self, *events: Event) -> None:
        for event in events:
            said = self._said(event)
            await self.bus.publish(subjects.inbox(said.source, WS, event.type), said)

    async def say_that_it_is_done(self) -> None:
        """Behind much else that was said."""
        await self.say(*[self._failed(number) for number in range(MANY)], self._done())

    def _failed(self, number: int) -> HealthFailed:
        return HealthFailed(
            workspace=WS,
            epoch=self.story.state.epoch,
            machine=MachineId("somebody"),
            role=Role.GPU,
            failures=number,
            threshold=MANY,
            reason="no answer",
        )

    def _done(self) -> RestoreDone:
        host = self.story.state.attempt.host
        assert host is not None
        return RestoreDone(
            workspace=WS,
            epoch=self.story.state.epoch,
            machine=host.id,
            attempt=self.story.state.attempt.number,
            round=self.story.state.attempt.round,
            final=False,
            generation=self.story.state.generation,
            files=3,
            bytes=1000,
            bytes_copied=1000,
            manifest_sha256="00",
            seconds=1.0,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A recovery whose effects never end."""
        term = await self.log.acquire("test", 1e6)
        assert term is not None
        recovery = Recovery(
            self.log,
            term=lambda: term,
            now=virtual_time.now,
            new_id=self.new_id,
            installation="dumont",
            ports=[20000],
            heard=Backlog(self.bus).heard,
        )
        await recovery.load()

        async def for_ever(*_: object) -> Sequence[Event]:
            await asyncio.Event().wait()
            return ()

        driver = Driver(recovery, for_ever, interval=1.0)
        loops = [
            asyncio.create_task(loop) for loop in (driver.run(), listen_forever(self.bus, recovery))
        ]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)

    async def told(self) -> list[str]:
        """What the log has beyond the story."""
        events = [envelope.event.type for envelope in await self.log.read(limit=10_000)]
        return [name for name in events[len(self.story.told) :] if name != "HealthFailed"]


def played(story: Callable[[Scene], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        scene = Scene()
        await scene.begin()
        await story(scene)

    virtual_time.run(main())


MET = ["RestoreDone", "FailbackStarted"]
MISSED = "ProvisionFailed"


@fault(3)
def test_what_was_said_while_nobody_ran_meets_its_deadline() -> None:
    async def story(scene: Scene) -> None:
        await asyncio.sleep(DEADLINE / 2)
        await scene.say_that_it_is_done()
        await asyncio.sleep(DEADLINE)
        async with scene.running():
            await asyncio.sleep(2)
        assert await scene.told() == MET

    played(story)


@fault(3)
def test_what_the_process_before_took_and_died_with_meets_its_deadline() -> None:
    async def story(scene: Scene) -> None:
        await asyncio.sleep(DEADLINE - 1)
        await scene.say_that_it_is_done()
        dead = scene.bus.consume(stream=subjects.STREAM_INBOX, durable="recovery", batch=2 * MANY)
        assert len(await anext(dead)) == MANY + 1
        await asyncio.sleep(2)
        async with scene.running():
            await asyncio.sleep(BACKLOG_SECONDS_MAX)
        assert await scene.told() == MET

    played(story)


@fault(37)
def test_what_was_said_while_the_log_was_silent_meets_its_deadline() -> None:
    async def story(scene: Scene) -> None:
        async with scene.running():
            await asyncio.sleep(DEADLINE - 10)
            scene.log.answering = False
            await scene.say_that_it_is_done()
            await asyncio.sleep(300)
            scene.log.answering = True
            await asyncio.sleep(10)
            assert await scene.told() == MET

    played(story)


@fault(22)
def test_a_bus_that_is_lost_holds_up_deadlines_once_and_for_seconds() -> None:
    async def story(scene: Scene) -> None:
        async with scene.running():
            scene.bus.connected = False
            await asyncio.sleep(DEADLINE + BACKLOG_SECONDS_MAX - 1)
            assert await scene.told() == []
            await asyncio.sleep(3)
            assert (await scene.told())[0] == MISSED
            recovery = Backlog(scene.bus)
            await recovery.heard()
            before = virtual_time.now()
            await recovery.heard()
            assert virtual_time.now() == before

    played(story)


def test_what_is_said_later_is_not_waited_for() -> None:
    async def story(scene: Scene) -> None:
        async def talk() -> None:
            while True:
                await scene.say(scene._failed(1))
                await asyncio.sleep(0.01)

        talking = asyncio.create_task(talk())
        async with scene.running():
            await asyncio.sleep(1)
            before = virtual_time.now()
            await Backlog(scene.bus).heard()
            assert virtual_time.now() - before < timedelta(seconds=1)
        talking.cancel()

    played(story)
