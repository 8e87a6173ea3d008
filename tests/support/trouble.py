"""What can happen to the bus, the database and the load balancer of a running stack.

Each trouble is a context: it begins, and what was broken on purpose is given back at the end. What
was killed or deleted is not given back: that is for the product.
"""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import nats
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from cli.embedded import processes
from cli.embedded.haproxy import HaproxyServer
from cli.embedded.layout import Layout
from cli.embedded.postgres import SUPERUSER
from cli.embedded.settings import Settings, read_settings
from shared.patience import BUS, EVENT_LOG
from shared.subjects import BUCKET_STATE, STREAM_EVENTS, STREAM_INBOX
from tests.support.disks import full
from tests.support.stack import Stack
from tests.support.waiting import eventually

LOAD_BALANCER = "the load balancer"


def kill(stack: Stack, child: str, signum: signal.Signals = signal.SIGKILL) -> None:
    """Exactly this child, as it is now."""
    process = stack.child(child).process
    assert process is not None
    processes.send(process, signum)


def settings(stack: Stack) -> Settings:
    """What the stack was started with: its ports."""
    return read_settings(Layout.of(stack.dir))


def store(stack: Stack) -> Path:
    """Where the bus keeps its streams: a disk of its own."""
    return stack.dir.parent / "bus"


# --- the bus ------------------------------------------------------------------------------------


@contextmanager
def bus_killed(stack: Stack) -> Iterator[None]:
    kill(stack, "nats")
    yield


@contextmanager
def bus_restarted(stack: Stack) -> Iterator[None]:
    kill(stack, "nats", signal.SIGTERM)
    yield


@contextmanager
def bus_frozen(stack: Stack) -> Iterator[None]:
    """As behind a network that is cut: connections stand, and nothing comes."""
    kill(stack, "nats", signal.SIGSTOP)
    try:
        yield
    finally:
        kill(stack, "nats", signal.SIGCONT)


@contextmanager
def bus_wiped(stack: Stack) -> Iterator[None]:
    kill(stack, "nats")
    for path in store(stack).iterdir():
        shutil.rmtree(path)
    yield


@contextmanager
def streams_deleted(stack: Stack) -> Iterator[None]:
    asyncio.run(_delete_streams(stack, STREAM_EVENTS, STREAM_INBOX, f"KV_{BUCKET_STATE}"))
    yield


async def _delete_streams(stack: Stack, *names: str) -> None:
    async with _admin(stack) as client:
        for name in names:
            with suppress(NotFoundError):
                await client.jetstream().delete_stream(name)


def inbox_size(stack: Stack) -> int:
    """How much was said that recovery has not settled."""

    async def ask() -> int:
        async with _admin(stack) as client:
            info = await client.jetstream().stream_info(STREAM_INBOX)
            return int(info.state.messages)

    return asyncio.run(ask())


@asynccontextmanager
async def _admin(stack: Stack) -> AsyncIterator[Client]:
    client = await nats.connect(
        f"nats://127.0.0.1:{settings(stack).nats_port}",
        user="admin",
        password=Layout.of(stack.dir).secret("nats_admin").read_text().strip(),
        inbox_prefix=b"_INBOX_admin",
    )
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def bus_disk_full(stack: Stack) -> Iterator[None]:
    with full(store(stack)):
        yield


# --- the database -------------------------------------------------------------------------------


@contextmanager
def log_killed(stack: Stack) -> Iterator[None]:
    kill(stack, "postgres")
    yield


@contextmanager
def log_restarted(stack: Stack) -> Iterator[None]:
    kill(stack, "postgres", signal.SIGINT)
    yield


@contextmanager
def log_read_only(stack: Stack) -> Iterator[None]:
    asyncio.run(_as_superuser(stack, "ALTER SYSTEM SET default_transaction_read_only = on"))
    asyncio.run(_as_superuser(stack, "SELECT pg_reload_conf()"))
    try:
        yield
    finally:
        asyncio.run(_as_superuser(stack, "ALTER SYSTEM RESET default_transaction_read_only"))
        asyncio.run(_as_superuser(stack, "SELECT pg_reload_conf()"))


@contextmanager
def log_stuck(stack: Stack) -> Iterator[None]:
    """Nothing that touches the log comes to an end: each statement takes as long as this."""
    runner = asyncio.Runner()
    connection = runner.run(_superuser(stack))
    try:
        runner.run(connection.execute("BEGIN; LOCK TABLE event_log, writer_lease"))
        yield
    finally:
        with suppress(asyncpg.PostgresError):  # the server may end who is idle so long
            runner.run(connection.close())
        runner.close()


def restore_an_old_copy_of_the_log(stack: Stack) -> int:
    """As from a backup that is older than the last change of primary; where it ends."""
    return asyncio.run(_restore(stack))


async def _restore(stack: Stack) -> int:
    connection = await _superuser(stack)
    async with connection.transaction():
        # Nothing is written from here on that this does not see.
        await connection.execute("LOCK TABLE writer_lease, event_log")
        end = await connection.fetchval(
            "SELECT max(position) - 1 FROM event_log WHERE type = 'FailbackVerified'"
        )
        await connection.execute("ALTER TABLE event_log DISABLE TRIGGER append_only")
        await connection.execute("DELETE FROM event_log WHERE position > $1", end)
        await connection.execute("ALTER TABLE event_log ENABLE ALWAYS TRIGGER append_only")
        await connection.execute("UPDATE writer_lease SET head = $1", end)
        await connection.execute("UPDATE relay_cursor SET position = $1", end)
    await connection.close()
    return int(end)


async def _as_superuser(stack: Stack, statement: str) -> None:
    connection = await _superuser(stack)
    await connection.execute(statement)
    await connection.close()


async def _superuser(stack: Stack) -> asyncpg.Connection:
    password = Layout.of(stack.dir).secret(f"postgres_{SUPERUSER}").read_text().strip()
    return await asyncpg.connect(
        host="127.0.0.1",
        port=settings(stack).postgres_port,
        user="postgres",
        password=password,
        database="dumont",
        server_settings={
            "default_transaction_read_only": "off",
            "idle_in_transaction_session_timeout": "0",
        },
    )


# --- the load balancer --------------------------------------------------------------------------


@contextmanager
def balancer_killed(stack: Stack) -> Iterator[None]:
    kill(stack, "haproxy")
    yield


@contextmanager
def balancer_restarted(stack: Stack) -> Iterator[None]:
    kill(stack, "haproxy", signal.SIGTERM)
    yield


@contextmanager
def balancer_frozen(stack: Stack) -> Iterator[None]:
    kill(stack, "haproxy", signal.SIGSTOP)
    try:
        yield
    finally:
        kill(stack, "haproxy", signal.SIGCONT)


@contextmanager
def balancer_reloaded(stack: Stack) -> Iterator[None]:
    """As by hand: a second process takes the ports over from the one that the stack knows."""
    old = stack.child("haproxy").process
    assert old is not None
    first, last = settings(stack).endpoint_ports
    server = HaproxyServer(Layout.of(stack.dir).haproxy, ports=range(first, last + 1))
    mine = subprocess.Popen([*server.argv, "-sf", str(old.pid)], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: not processes.alive(old), "the old process ends")
        yield
    finally:
        mine.kill()
        mine.wait()


@dataclass(frozen=True, slots=True)
class Trouble:
    """``shows``: what /readyz says that is waited for while it lasts; None when it is over at once.

    ``faults`` are its numbers in the catalogue.
    """

    begin: Callable[[Stack], AbstractContextManager[None]]
    shows: str | None
    faults: tuple[int, ...] = ()


TROUBLES = {
    "bus killed": Trouble(bus_killed, None, (22,)),
    "bus restarted": Trouble(bus_restarted, None, (22,)),
    "bus frozen": Trouble(bus_frozen, BUS, (23,)),
    "bus wiped": Trouble(bus_wiped, None, (26,)),
    "streams deleted": Trouble(streams_deleted, None, (24,)),
    "bus disk full": Trouble(bus_disk_full, BUS, (25,)),
    "log killed": Trouble(log_killed, None, (37,)),
    "log restarted": Trouble(log_restarted, None, (37,)),
    "log read-only": Trouble(log_read_only, EVENT_LOG, (40,)),
    "log stuck": Trouble(log_stuck, EVENT_LOG, (41,)),
    "balancer killed": Trouble(balancer_killed, None),
    "balancer restarted": Trouble(balancer_restarted, None),
    "balancer frozen": Trouble(balancer_frozen, LOAD_BALANCER),
    "balancer reloaded": Trouble(balancer_reloaded, None),
}
