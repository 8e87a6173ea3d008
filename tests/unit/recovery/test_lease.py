"""The writer's lease: what a process that was stopped, cut off or replaced notices, and when."""

import asyncio
from dataclasses import dataclass

import pytest

from services.recovery.lease import Lease
from shared.eventlog.memory import MemoryLog
from shared.eventlog.port import LeaseLostError, LogUnknownError
from tests.support import virtual_time
from tests.support.faults import fault
from tests.support.virtual_time import now

SECONDS = 5.0


def lease(log: MemoryLog, holder: str = "one") -> Lease:
    loop = asyncio.get_running_loop()
    return Lease(log, holder=holder, seconds=SECONDS, monotonic=loop.time)


@dataclass(slots=True)
class DeafLog(MemoryLog):
    """A log at the far end of a line that swallows everything once it is ``cut``."""

    cut: bool = False

    async def renew(self, term: int, seconds: float) -> bool:
        if self.cut:
            await asyncio.Event().wait()
        return await MemoryLog.renew(self, term, seconds)


@fault(46)
def test_who_waits_has_the_lease_soon_after_the_last_renewal_of_a_dead_holder() -> None:
    async def story() -> float:
        log = MemoryLog(now=now)
        await lease(log, "dead").acquire()
        began = asyncio.get_running_loop().time()
        await lease(log, "waiting").acquire()
        return asyncio.get_running_loop().time() - began

    assert virtual_time.run(story()) <= SECONDS * 1.2


@fault(47)
def test_who_was_paused_for_longer_than_the_lease_has_none_when_it_wakes_up() -> None:
    async def story() -> None:
        log = MemoryLog(now=now)
        paused = lease(log)
        await paused.acquire()
        await asyncio.sleep(SECONDS)
        with pytest.raises(LeaseLostError):
            paused.term()
        with pytest.raises(LeaseLostError):
            await paused.confirm()

    virtual_time.run(story())


@fault(51)
def test_two_processes_under_one_name_notice_before_the_next_effect() -> None:
    async def story() -> None:
        log = MemoryLog(now=now)
        first, second = lease(log), lease(log)
        await first.acquire()
        await second.acquire()
        assert first.term() < second.term(), "its own clock tells it nothing"
        with pytest.raises(LeaseLostError):
            await first.confirm()
        with pytest.raises(LeaseLostError):
            first.term()
        assert await second.confirm() == second.term()

    virtual_time.run(story())


def test_a_holder_that_is_cut_off_ends_when_its_lease_does_and_not_later() -> None:
    async def story() -> float:
        log = DeafLog(now=now)
        held = lease(log)
        await held.acquire()
        log.cut = True
        began = asyncio.get_running_loop().time()
        with pytest.raises(LeaseLostError):
            await held.keep()
        return asyncio.get_running_loop().time() - began

    assert virtual_time.run(story()) == pytest.approx(SECONDS, abs=SECONDS / 4)


def test_a_short_silence_of_the_log_costs_nobody_the_lease() -> None:
    async def story() -> int:
        log = MemoryLog(now=now)
        held = lease(log)
        term = await held.acquire()
        keeping = asyncio.create_task(held.keep())
        await asyncio.sleep(60)
        log.answering = False
        with pytest.raises(LogUnknownError):
            await held.confirm()
        await asyncio.sleep(SECONDS / 2)
        log.answering = True
        await asyncio.sleep(60)
        keeping.cancel()
        return held.term() - term

    assert virtual_time.run(story()) == 0


def test_giving_up_a_lease_that_nobody_can_be_told_of_is_no_error() -> None:
    async def story() -> None:
        log = MemoryLog(now=now)
        held = lease(log)
        await held.acquire()
        log.answering = False
        await held.release()
        with pytest.raises(LeaseLostError):
            held.term()

    virtual_time.run(story())
