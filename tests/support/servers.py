"""Real servers for tests: nats-server and Postgres, each with its own port and directory."""

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import asyncpg

from cli.embedded.nats import NatsServer
from cli.embedded.postgres import ROLES, SUPERUSER, PostgresServer
from services.recovery.setup import migrate
from shared.bus.permissions import USERS
from tests.support.waiting import PATIENCE


class Program(Protocol):
    """What the embedded servers have in common."""

    @property
    def argv(self) -> tuple[str, ...]: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def user(self) -> str | None: ...
    @property
    def stop_signal(self) -> int: ...

    def prepare(self) -> None: ...
    def ready(self) -> bool: ...


@dataclass(slots=True)
class Running:
    """A server that was started; ``kill`` and ``start`` it as a test needs."""

    program: Program
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready, again and again as a supervisor would."""
        self.program.prepare()
        deadline = time.monotonic() + PATIENCE
        user = self.program.user
        while True:
            self.process = subprocess.Popen(
                self.program.argv,
                env={"PATH": os.defpath, **self.program.env},
                user=user,
                group=user,
                extra_groups=[] if user else None,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while self.process.poll() is None:
                if self.program.ready():
                    return
                time.sleep(0.01)
                assert time.monotonic() < deadline, f"{self.program.argv[0]} is not ready"
            assert time.monotonic() < deadline, f"{self.program.argv[0]} does not start"
            time.sleep(0.1)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(self.program.stop_signal)
        self.process.wait(timeout=10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class Nats:
    """A running nats-server with the product's users."""

    server: NatsServer
    running: Running

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def passwords(self) -> Mapping[str, str]:
        return self.server.passwords

    def start(self) -> None:
        self.running.start()

    def kill(self) -> None:
        self.running.kill()

    def wipe(self) -> None:
        """Kill it, delete everything it stored and start it again."""
        self.kill()
        shutil.rmtree(self.server.store)
        self.start()


@dataclass(slots=True)
class Postgres:
    """A running Postgres with the product's roles and a migrated log."""

    server: PostgresServer
    running: Running

    @property
    def passwords(self) -> Mapping[str, str]:
        return self.server.passwords

    def dsn(self, role: str, *, socket: bool = True) -> str:
        return self.server.dsn(role, socket=socket)

    async def query(self, sql: str, *, role: str = SUPERUSER) -> list[asyncpg.Record]:
        """Run something by hand, as a person with this role's password would."""
        plain = self.dsn(role).replace("+asyncpg", "")
        # Also while a test has made the database read-only for everybody.
        writable = {"default_transaction_read_only": "off"}
        connection = await asyncpg.connect(
            plain, password=self.passwords[role], server_settings=writable
        )
        try:
            return list(await connection.fetch(sql))
        finally:
            await connection.close()

    async def tamper(self, sql: str) -> None:
        """What only a superuser who turns the guard off can do."""
        guard = "ALTER TABLE event_log {} TRIGGER append_only"
        plain = self.dsn(SUPERUSER).replace("+asyncpg", "")
        connection = await asyncpg.connect(plain, password=self.passwords[SUPERUSER])
        try:
            await connection.execute(guard.format("DISABLE"))
            await connection.execute(sql)
            await connection.execute(guard.format("ENABLE ALWAYS"))
        finally:
            await connection.close()

    async def empty(self) -> None:
        """As if nothing had ever been recorded."""
        await self.tamper(
            "TRUNCATE event_log; UPDATE relay_cursor SET position = 0;"
            "UPDATE writer_lease SET term = 0, holder = '', head = 0, expires_at = '-infinity'"
        )

    def start(self) -> None:
        self.running.start()

    def kill(self) -> None:
        self.running.kill()


@contextmanager
def nats_server(directory: Path) -> Iterator[Nats]:
    """A nats-server whose streams lie in ``directory``; nothing is set up in it yet."""
    passwords = {user: secrets.token_hex(8) for user in USERS}
    server = NatsServer(directory / "nats", free_port(), passwords)
    running = Running(server)
    running.start()
    try:
        yield Nats(server, running)
    finally:
        running.stop()


@contextmanager
def postgres_server(directory: Path | None = None) -> Iterator[Postgres]:
    """A Postgres with a migrated log; by default in a directory that its account can reach."""
    own = directory is None
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="dumont-"))
        directory.chmod(0o711)
    passwords = {role: secrets.token_hex(8) for role in ROLES}
    server = PostgresServer(directory / "pg", free_port(), passwords)
    running = Running(server)
    try:
        running.start()
        try:
            with ThreadPoolExecutor(1) as aside:  # fixtures may run under a loop already
                migrating = migrate(server.dsn("owner"), passwords["owner"])
                aside.submit(asyncio.run, migrating).result()
            yield Postgres(server, running)
        finally:
            running.stop()
    finally:
        server.remove()
        if own:
            shutil.rmtree(directory)


__all__ = [
    "SUPERUSER",
    "Nats",
    "Postgres",
    "Running",
    "free_port",
    "nats_server",
    "postgres_server",
]
