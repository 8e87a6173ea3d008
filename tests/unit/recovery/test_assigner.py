"""What health and sync are to do reaches them when it changes. Nothing else wakes them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from lab.clock import now, run
from services.recovery.assigner import Assigner
from services.recovery.service import Recovery
from shared import assignments
from shared.bus.memory import MemoryBus
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName
from tests.support.faults import fault

WS, OTHER = WorkspaceName("train"), WorkspaceName("other")
REPEAT = 1000.0


@dataclass
class Bucket(MemoryBus):
    """Counts what is put. A look at it takes ``seconds``, and shows how it was before them."""

    seconds: float = 0.0
    puts: list[str] = field(default_factory=list)

    async def put(self, key: str, value: bytes) -> None:
        self.puts.append(key)
        await MemoryBus.put(self, key, value)

    async def entries(self) -> dict[str, bytes]:
        there = await MemoryBus.entries(self)
        await asyncio.sleep(self.seconds)
        return there

    async def lose(self) -> None:
        self._bucket.clear()
        self.wake()


@asynccontextmanager
async def assigning(bus: MemoryBus) -> AsyncIterator[Recovery]:
    log = MemoryLog(now=now)
    term = await log.acquire("test", 3600)
    assert term is not None
    recovery = Recovery(
        log, term=lambda: term, now=now, new_id=uuid4, installation="test", ports=[20000, 20001]
    )
    assigner = Assigner(
        recovery,
        bus,
        host_ca=lambda _: "",
        user_ca="",
        system=assignments.System(configured={}),
        repeat=REPEAT,
    )
    loops = [asyncio.create_task(assigner.run()), asyncio.create_task(assigner.run_on_changes())]
    try:
        yield recovery
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


def asked(verb: str, workspace: WorkspaceName = WS, **arguments: object) -> Envelope:
    event = RequestReceived(
        workspace=workspace, epoch=0, verb=verb, actor="test", arguments=arguments
    )
    return Envelope(id=uuid4(), source="api", time=now(), event=event)


def registered(workspace: WorkspaceName = WS) -> Envelope:
    return asked("register", workspace, path="/workspace", origin="empty")


def play(bus: Bucket, story: Callable[[Recovery], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        async with assigning(bus) as recovery:
            await recovery.listen(registered())
            await asyncio.sleep(3)
            bus.puts.clear()
            await story(recovery)

    run(told())


def test_what_changes_for_health_and_sync_is_put_at_once() -> None:
    bus = Bucket()

    async def story(recovery: Recovery) -> None:
        await recovery.listen(asked("remove"))
        await asyncio.sleep(3)
        assert assignments.decode((await bus.entries())[WS]).removed

    play(bus, story)
    assert bus.puts == [WS]


def test_an_event_that_changes_nothing_for_health_and_sync_wakes_nobody() -> None:
    bus = Bucket()

    async def story(recovery: Recovery) -> None:
        before = recovery.states[WS].version
        await recovery.listen(asked("failback"))  # refused: there is nothing to lead back to
        await asyncio.sleep(3)
        assert recovery.states[WS].version > before

    play(bus, story)
    assert bus.puts == []


@fault(26)
def test_what_the_bucket_lost_is_put_again() -> None:
    bus = Bucket()

    async def story(recovery: Recovery) -> None:
        await recovery.listen(registered(OTHER))
        await asyncio.sleep(3)
        bus.puts.clear()
        await bus.lose()
        await asyncio.sleep(3)

    play(bus, story)
    assert sorted(bus.puts) == sorted([assignments.SYSTEM_KEY, WS, OTHER])


def test_what_was_put_while_the_bucket_was_read_is_not_taken_for_lost() -> None:
    bus = Bucket(seconds=2)

    async def story(recovery: Recovery) -> None:
        bus.wake()  # a look begins, and ends after what follows
        await asyncio.sleep(1)
        await recovery.listen(asked("remove"))
        await asyncio.sleep(10)

    play(bus, story)
    assert bus.puts == [WS]


def test_all_is_put_again_now_and_then_although_nothing_changed() -> None:
    bus = Bucket()

    async def story(_: Recovery) -> None:
        await asyncio.sleep(REPEAT)

    play(bus, story)
    assert bus.puts == [assignments.SYSTEM_KEY, WS]
