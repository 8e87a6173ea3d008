"""The head of the log leaves the database: into the bucket, and as a line into a file."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from services.recovery.notary import Notary
from shared.assignments import LOG_HEAD_KEY
from shared.bus.memory import MemoryBus
from shared.bus.port import BusError
from shared.envelope import Envelope
from shared.eventlog.heads import ExportedHead, parse
from shared.eventlog.memory import MemoryLog
from shared.eventlog.port import LeaseLostError
from shared.eventlog.verify import verify
from shared.events.recovery import RecoveryStarted
from shared.machines import WorkspaceName

pytestmark = pytest.mark.anyio

AT = datetime(2026, 1, 1, tzinfo=UTC)
WS = WorkspaceName("train")


async def say(log: MemoryLog, count: int) -> None:
    term = await log.acquire("test", 60)
    assert term is not None
    for _ in range(count):
        event = RecoveryStarted(workspace=WS, epoch=0, reason="test")
        envelope = Envelope(id=uuid4(), source="recovery", time=AT, event=event)
        await log.append([envelope], term=term, expected_version=await log.head())


def notary(log: MemoryLog, bus: MemoryBus, file: Path | None = None) -> Notary:
    return Notary(log, bus, file=file, interval=60, now=lambda: AT, may_act=lambda: None)


async def test_each_head_is_a_line_of_the_file_and_the_newest_is_in_the_bucket(
    tmp_path: Path,
) -> None:
    log, bus, file = MemoryLog(), MemoryBus(), tmp_path / "heads"
    exporting = notary(log, bus, file)
    await exporting.export()
    assert await bus.entries() == {}, "an empty log has no head"
    for count in (2, 0, 3):
        await say(log, count)
        await exporting.export()
    heads = [parse(line) for line in file.read_text().splitlines()]
    assert [head.position for head in heads] == [2, 5]
    assert parse((await bus.entries())[LOG_HEAD_KEY].decode()) == heads[-1]
    assert heads[-1].at == AT
    assert await verify(log, heads=heads) == []


async def test_a_bucket_that_was_lost_gets_the_head_again() -> None:
    log = MemoryLog()
    await say(log, 1)
    exporting = notary(log, MemoryBus())
    await exporting.export()
    exporting._bus = fresh = MemoryBus()
    await exporting.export()
    assert LOG_HEAD_KEY in await fresh.entries()


async def test_a_file_has_its_line_although_the_bus_is_away(tmp_path: Path) -> None:
    log, bus, file = MemoryLog(), MemoryBus(connected=False), tmp_path / "heads"
    await say(log, 1)
    with pytest.raises(BusError):
        await notary(log, bus, file).export()
    assert parse(file.read_text()).position == 1


async def test_nothing_is_exported_by_a_recovery_that_lost_its_lease(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLostError("over")

    log, bus, file = MemoryLog(), MemoryBus(), tmp_path / "heads"
    await say(log, 1)
    late = Notary(log, bus, file=file, interval=60, now=lambda: AT, may_act=lost)
    with pytest.raises(LeaseLostError):
        await late.run()
    assert (await bus.entries(), file.exists()) == ({}, False)


@pytest.mark.parametrize(
    "line", ["", "12", "0:" + "00" * 32, "1:00", "1:" + "zz" * 32, "1:" + "00" * 32 + " never"]
)
def test_what_is_no_head_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(line)


def test_a_head_is_read_back_as_it_was_written() -> None:
    for head in (
        ExportedHead(position=7, hash=bytes(range(32)), at=AT),
        ExportedHead(position=7, hash=bytes(32)),
    ):
        assert parse(str(head)) == head
