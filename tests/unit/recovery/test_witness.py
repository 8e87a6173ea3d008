"""A log that is an old copy: nothing is done on it, and everybody can see why."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from services.recovery.mend import CannotMendError, mend
from services.recovery.relay import Relay
from services.recovery.witness import NEWER_LOG, confirm_newest, until_newest
from shared import assignments
from shared.assignments import Assignment, SyncMode
from shared.bus.memory import MemoryBus
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.eventlog.port import LogOlderError
from shared.eventlog.verify import verify
from shared.events.recovery import RecoveryStarted
from shared.machines import WorkspaceName
from shared.patience import Waits
from shared.policy import Policy
from shared.subjects import STREAM_EVENTS, event
from shared.waiting import News
from tests.support import virtual_time
from tests.support.faults import fault

WS = WorkspaceName("train")


async def a_log_of(count: int) -> MemoryLog:
    log = MemoryLog(now=virtual_time.now)
    term = await log.acquire("test", 3600)
    assert term is not None
    for version in range(count):
        said = Envelope(
            id=uuid4(),
            source="recovery",
            time=datetime(2026, 1, 1, tzinfo=UTC),
            event=RecoveryStarted(workspace=WS, epoch=0, reason="test"),
        )
        await log.append([said], term=term, expected_version=version)
    return log


async def a_bus_that_heard(log: MemoryLog) -> MemoryBus:
    bus = MemoryBus()
    for envelope in await log.read(limit=5000):
        await bus.publish(event(WS, "RecoveryStarted"), envelope)
    return bus


async def an_old_copy(log: MemoryLog, count: int) -> MemoryLog:
    copy = MemoryLog(now=virtual_time.now)
    await copy_events(log, copy, first=0, last=count)
    return copy


async def copy_events(log: MemoryLog, to: MemoryLog, *, first: int, last: int) -> None:
    term = await to.acquire("backup", 1.0)
    assert term is not None
    for version, envelope in enumerate(await log.read(after=first, limit=last - first)):
        await to.append([envelope], term=term, expected_version=first + version)
    await to.release(term)


def assignment(position: int) -> bytes:
    return assignments.encode(
        Assignment(
            workspace=WS,
            epoch=3,
            position=position,
            mode=SyncMode.MIRROR,
            path="/workspace",
            policy=Policy(),
        )
    )


pytestmark = [fault(39), fault(44)]


def test_a_log_as_new_as_what_was_told_is_acted_on() -> None:
    async def main() -> None:
        log = await a_log_of(5)
        await confirm_newest(log, await a_bus_that_heard(log))
        await confirm_newest(log, MemoryBus())
        await confirm_newest(log, await a_bus_that_heard(await an_old_copy(log, 3)))

    virtual_time.run(main())


def test_a_log_that_ends_before_what_was_told_is_seen_to_be_an_old_copy() -> None:
    async def main() -> None:
        log = await a_log_of(5)
        with pytest.raises(LogOlderError, match=r"position 5 was told .* ends at 3"):
            await confirm_newest(await an_old_copy(log, 3), await a_bus_that_heard(log))

    virtual_time.run(main())


def test_an_assignment_that_is_newer_than_the_log_is_enough_to_see_it() -> None:
    async def main() -> None:
        log, bus = await a_log_of(5), MemoryBus()
        await bus.put(assignments.SYSTEM_KEY, b"{}")
        await bus.put("broken", b"{")
        await bus.put(WS, assignment(5))
        await confirm_newest(log, bus)
        with pytest.raises(LogOlderError):
            await confirm_newest(await an_old_copy(log, 4), bus)

    virtual_time.run(main())


def test_recovery_refuses_in_the_open_and_goes_on_by_itself_once_the_log_is_new_again() -> None:
    async def main() -> None:
        log = await a_log_of(5)
        bus = await a_bus_that_heard(log)
        restored = await an_old_copy(log, 3)
        waits = Waits(now=virtual_time.now)
        asking = asyncio.create_task(until_newest(restored, bus, waits))
        await asyncio.sleep(60)
        assert not asking.done()
        (shown,) = waits.current()
        assert shown.what == NEWER_LOG
        assert "runbook" in shown.reason
        await copy_events(log, restored, first=3, last=5)
        await asyncio.sleep(10)
        assert asking.done()
        assert waits.current() == []

    virtual_time.run(main())


def test_a_bus_that_does_not_say_is_not_waited_for_without_end() -> None:
    async def main() -> None:
        log, bus = await a_log_of(2), MemoryBus(connected=False)
        async with asyncio.timeout(60):
            await until_newest(log, bus, Waits(now=virtual_time.now))

    virtual_time.run(main())


def test_a_silent_log_is_waited_for_as_long_as_it_takes() -> None:
    async def main() -> None:
        log, bus = await a_log_of(2), MemoryBus()
        log.answering = False
        asking = asyncio.create_task(until_newest(log, bus, Waits(now=virtual_time.now)))
        await asyncio.sleep(60)
        assert not asking.done()
        log.answering = True
        await asyncio.sleep(10)
        assert asking.done()

    virtual_time.run(main())


def test_an_old_copy_is_mended_from_what_was_told_and_is_then_acted_on() -> None:
    async def main() -> None:
        log = await a_log_of(1200)
        bus = await a_bus_that_heard(log)
        await bus.put(WS, assignment(1200))
        old = await an_old_copy(log, 3)
        assert await mend(old, bus) == 1197
        assert await old.read(limit=5000) == await log.read(limit=5000)
        assert await verify(old) == []
        await confirm_newest(old, bus)
        assert await old.acquire("recovery", 10) is not None, "the lease is free again"
        assert await mend(old, bus) == 0

    virtual_time.run(main())


def test_a_log_is_not_mended_over_a_gap() -> None:
    async def main() -> None:
        log = await a_log_of(6)
        bus = MemoryBus()
        for envelope in await log.read(after=4):
            await bus.publish(event(WS, "RecoveryStarted"), envelope)
        old = await an_old_copy(log, 3)
        with pytest.raises(CannotMendError, match="lacks position 4, and the bus holds 5"):
            await mend(old, bus)
        assert await old.head() == 3
        await bus.put(WS, assignment(9))
        with pytest.raises(CannotMendError, match="position 9 was assigned"):
            await mend(await an_old_copy(log, 5), bus)

    virtual_time.run(main())


def test_a_log_that_somebody_writes_is_not_mended() -> None:
    async def main() -> None:
        log = await a_log_of(5)
        bus = await a_bus_that_heard(log)
        old = await an_old_copy(log, 3)
        assert await old.acquire("recovery", 1_000_000) is not None
        with pytest.raises(CannotMendError, match="end every one"):
            await mend(old, bus)
        assert await old.head() == 3

    virtual_time.run(main())


@pytest.mark.parametrize("advanced", [0, 3, 5])
def test_a_log_that_is_exchanged_for_an_old_copy_under_the_relay_ends_it(advanced: int) -> None:
    """Also when the relay, in the middle of its work, moved the cursor of the copy past its end."""

    async def main() -> None:
        log = await a_log_of(5)
        bus = await a_bus_that_heard(log)
        old = await an_old_copy(log, 3)
        term = await old.acquire("test", 3600)
        assert term is not None
        await old.advance(advanced, term=term)
        relay = Relay(old, bus, term=lambda: term, changed=News())
        async with asyncio.timeout(60):
            with pytest.raises(LogOlderError):
                await relay.run()
        assert len(list(bus.published(STREAM_EVENTS))) == 5

    virtual_time.run(main())
