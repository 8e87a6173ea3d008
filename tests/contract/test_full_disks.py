"""Servers whose disk fills up and is freed again: nothing that was acknowledged is lost."""

import asyncio
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from cli.embedded.nats import NatsServer
from shared import subjects
from shared.bus.nats_bus import NatsBus
from shared.bus.permissions import USERS
from shared.bus.port import BusError
from shared.bus.streams import DURABLE_RECOVERY
from shared.eventlog.port import LogUnknownError
from shared.eventlog.verify import verify
from shared.eventlog.writer import PostgresWriter
from tests.contract.test_bus import INBOX, failures, seen
from tests.contract.test_eventlog import held, said
from tests.support.disks import full, needs_mount, small_disk
from tests.support.faults import fault
from tests.support.servers import Nats, Postgres, Running, free_port, postgres_server
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.anyio, needs_mount]

HEALTH_CHECK = Path(__file__).parents[2] / "deploy/nats-health.sh"

LEFT = 64 << 10
"""Bytes that a full disk still takes: the servers fail in the middle of their work."""


@contextmanager
def nats_on(disk: Path, directory: Path) -> Iterator[Nats]:
    """A nats-server whose streams, and only they, lie on ``disk``."""
    passwords = {user: secrets.token_hex(8) for user in USERS}
    server = NatsServer(directory, free_port(), passwords)
    directory.mkdir()
    server.store.symlink_to(disk)
    running = Running(server)
    running.start()
    try:
        yield Nats(server, running)
    finally:
        running.stop()


@fault(25)
async def test_a_bus_whose_disk_was_full_says_when_only_a_restart_helps_and_loses_nothing(
    tmp_path: Path,
) -> None:
    with (
        small_disk(tmp_path / "disk", "64m") as disk,
        nats_on(disk, tmp_path / "nats") as nats,
    ):
        async with (
            NatsBus.connect(nats.url, "admin", nats.passwords["admin"]) as admin,
            NatsBus.connect(nats.url, "health", nats.passwords["health"]) as health,
        ):
            await admin.ensure_streams()
            await health.publish(INBOX, seen(0))
            assert nats.server.stuck() == ""
            with full(disk, but=LEFT):
                kept = await published_until_refused(health)
                assert nats.server.stuck() == "", "there is no room: a restart would not help"
                await health.publish_raw("dumont.telemetry.health.train.check", b"{}")
            with pytest.raises(BusError):
                await health.publish(INBOX, seen(kept))
            assert "no space left" in nats.server.stuck()
            await asyncio.to_thread(restart, nats)
            await until_published(health, kept)
            assert nats.server.stuck() == ""
        async with NatsBus.connect(nats.url, "recovery", nats.passwords["recovery"]) as recovery:
            heard = await first_heard(recovery, kept + 1)
            assert sorted(heard) == list(range(kept + 1))


def restart(server: Nats) -> None:
    """As in compose: its own health check ends it, and the restart policy starts it."""
    process = server.running.process
    assert process is not None
    assert health_check(server, seconds=0) == 1
    process.wait(PATIENCE)
    server.start()
    eventually(lambda: health_check(server, seconds=60) == 0)


def health_check(server: Nats, *, seconds: int) -> int:
    process = server.running.process
    assert process is not None
    where = [server.server.monitor(), str(server.server.store)]
    script = ["sh", str(HEALTH_CHECK), *where, str(process.pid), str(seconds)]
    return subprocess.run(script, check=False).returncode


async def published_until_refused(bus: NatsBus) -> int:
    """Speak until the disk is full; the number that was not taken."""
    for number in range(1, 1000):
        try:
            await bus.publish(INBOX, seen(number, evidence="x" * 2000))
        except BusError:
            return number
    raise AssertionError("the disk never filled up")


async def until_published(bus: NatsBus, number: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await bus.publish(INBOX, seen(number))
            except BusError:
                await asyncio.sleep(0.1)


async def first_heard(bus: NatsBus, count: int) -> list[int]:
    heard: list[int] = []
    async with asyncio.timeout(PATIENCE):
        async for batch in bus.consume(stream=subjects.STREAM_INBOX, durable=DURABLE_RECOVERY):
            heard += [failures(delivery) for delivery in batch]
            for delivery in batch:
                await delivery.ack()
            if len(heard) >= count:
                break
    return heard


@fault(40)
async def test_a_log_whose_disk_was_full_keeps_what_it_acknowledged_and_takes_more(
    open_directory: Path,
) -> None:
    with small_disk(open_directory / "disk", "160m") as disk, postgres_server(disk) as postgres:
        assert postgres.server.home == disk / "pg"
        async with PostgresWriter(postgres.dsn("recovery"), postgres.passwords["recovery"]) as log:
            term = await held(log)
            with full(disk):
                kept = await appended_until_refused(log, term)
                assert len(await log.read(limit=5000)) == kept, "it is read as ever"
            await until_taken(log, kept, postgres)
            assert await log.head() == kept + 1
            assert await verify(log) == []


@fault(40)
async def test_a_database_that_died_of_its_full_disk_comes_back_with_what_it_acknowledged(
    open_directory: Path,
) -> None:
    with small_disk(open_directory / "disk", "160m") as disk, postgres_server(disk) as postgres:
        async with PostgresWriter(postgres.dsn("recovery"), postgres.passwords["recovery"]) as log:
            term = await held(log)
            await log.append([said(0)], term=term, expected_version=0)
            with full(disk), pytest.raises((asyncpg.PostgresError, OSError, LogUnknownError)):
                for _ in range(20):  # it ends when its journal finds no room
                    await postgres.query("SELECT pg_switch_wal()")
                    await log.renew(term, 60)
            await until_taken(log, 1, postgres)
            assert await log.head() == 2
            assert await verify(log) == []


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that the account of Postgres can reach."""
    path = Path(tempfile.mkdtemp(prefix="dumont-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


async def appended_until_refused(log: PostgresWriter, term: int) -> int:
    for version in range(5000):
        try:
            await log.append([said(version)], term=term, expected_version=version)
        except LogUnknownError:
            return version
    raise AssertionError("the disk never filled up")


async def until_taken(log: PostgresWriter, version: int, server: Postgres) -> None:
    """Append, and start the server whenever it has ended, as a supervisor would."""
    async with asyncio.timeout(PATIENCE):
        while not await taken(log, version):
            assert server.running.process is not None
            if server.running.process.poll() is not None:
                await asyncio.to_thread(server.start)
            await asyncio.sleep(0.1)


async def taken(log: PostgresWriter, version: int) -> bool:
    try:
        term = await held(log)
        await log.append([said(version)], term=term, expected_version=version)
    except LogUnknownError:
        return False
    return True
