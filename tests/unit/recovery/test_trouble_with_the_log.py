"""The shell while the log cannot be written to: it waits in the open, and then records once."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.recovery.service import Recovery
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.eventlog.port import LeaseLostError, LogUnknownError
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName
from shared.patience import EVENT_LOG, Waits
from tests.support import virtual_time
from tests.support.faults import fault
from tests.support.world import Ids

WS = WorkspaceName("train")


@dataclass(slots=True)
class ReadableLog(MemoryLog):
    """It answers whoever reads; while ``full`` it takes nothing, as a database without room."""

    full: bool = True

    async def append(
        self, envelopes: Sequence[Envelope], *, term: int, expected_version: int
    ) -> list[Envelope]:
        if self.full:
            raise LogUnknownError("the event log did not answer: no space left on device")
        return await MemoryLog.append(self, envelopes, term=term, expected_version=expected_version)


@dataclass
class Scene:
    log: ReadableLog
    waits: Waits
    lease_ends: float = 1_000_000.0

    def recovery(self) -> Recovery:
        return Recovery(
            self.log,
            term=self.term,
            now=virtual_time.now,
            new_id=Ids(),
            installation="test",
            ports=[20000],
            waits=self.waits,
        )

    def term(self) -> int:
        if asyncio.get_running_loop().time() >= self.lease_ends:
            raise LeaseLostError("the writer lease ran out")
        return 1


async def scene() -> Scene:
    log = ReadableLog(now=virtual_time.now)
    assert await log.acquire("test", 1_000_000) == 1
    return Scene(log, Waits(now=virtual_time.now))


def a_request() -> Envelope:
    event = RequestReceived(workspace=WS, epoch=0, verb="pause", actor="test")
    return Envelope(
        id=UUID(int=9), source="api", time=datetime(2026, 1, 1, tzinfo=UTC), event=event
    )


@fault(40)
def test_a_log_that_can_only_be_read_is_waited_for_and_what_was_said_is_recorded_once() -> None:
    async def main() -> None:
        at = await scene()
        listening = asyncio.create_task(at.recovery().listen(a_request()))
        await asyncio.sleep(60)
        assert not listening.done()
        (shown,) = at.waits.current()
        assert (shown.what, await at.log.head()) == (EVENT_LOG, 0)
        at.log.full = False
        await asyncio.sleep(5)
        assert listening.done()
        assert at.waits.current() == []
        told = [envelope.event.type for envelope in await at.log.read()]
        assert told == ["RequestReceived", "RequestRefused"]

    virtual_time.run(main())


@fault(40)
def test_whoever_waits_for_the_log_stops_when_its_lease_is_over() -> None:
    async def main() -> None:
        at = await scene()
        at.lease_ends = 60.0
        with pytest.raises(LeaseLostError):
            await at.recovery().listen(a_request())
        assert asyncio.get_running_loop().time() < 70
        assert at.waits.current() == []

    virtual_time.run(main())


@fault(37)
def test_a_start_waits_for_a_log_that_is_silent_while_it_is_read() -> None:
    async def main() -> None:
        at = await scene()
        at.log.full = False
        recovery = at.recovery()
        await recovery.listen(a_request())
        again = at.recovery()
        at.log.answering = False
        loading = asyncio.create_task(again.load())
        await asyncio.sleep(600)
        assert [wait.what for wait in at.waits.current()] == [EVENT_LOG]
        at.log.answering = True
        async with asyncio.timeout(5):
            await loading
        assert again.states.keys() == {WS}
        assert at.waits.current() == []

    virtual_time.run(main())
