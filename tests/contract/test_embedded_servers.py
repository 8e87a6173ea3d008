"""The embedded servers: quick to come, hard to kill, closed to strangers."""

import asyncio
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from cli.embedded.postgres import ACCOUNT, ROLES, PostgresServer, reachable, roles_sql
from tests.support.servers import Running, free_port, nats_server, postgres_server

pytestmark = pytest.mark.anyio

COLD_SECONDS = 10.0
"""Far above what it takes (1.2 s on two idle cores): a busy machine is no failure."""


def passwords() -> dict[str, str]:
    return {role: f"secret{role}" for role in ROLES}


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that the account of Postgres can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="dumont-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def test_both_come_up_from_nothing_and_come_back_with_what_they_had(tmp_path: Path) -> None:
    started = time.monotonic()
    with nats_server(tmp_path) as nats, postgres_server() as postgres:
        assert nats.running.program.ready()
        assert time.monotonic() - started < COLD_SECONDS
        await postgres.query("UPDATE relay_cursor SET position = 5", role="recovery")
        postgres.kill()
        assert not postgres.server.ready()
        started = time.monotonic()
        await asyncio.to_thread(postgres.start)
        assert time.monotonic() - started < COLD_SECONDS
        assert (await postgres.query("SELECT position FROM relay_cursor"))[0]["position"] == 5


async def test_a_cluster_whose_directory_its_account_cannot_reach_lies_elsewhere(
    tmp_path: Path,
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    server = PostgresServer(private / "pg", free_port(), passwords())
    running = Running(server)
    try:
        running.start()
        connection = await asyncpg.connect(
            server.dsn("reader").replace("+asyncpg", ""), password="secretreader"
        )
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        running.stop()
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        if os.geteuid() == 0:
            assert server.home != private / "pg"
            private.chmod(0o711)
            assert server.data.exists(), "it stays where it is when the modes change"
    finally:
        server.remove()
    assert not server.home.exists()


async def test_a_cluster_that_was_half_made_is_made_anew(open_directory: Path) -> None:
    server = PostgresServer(open_directory / "pg", free_port(), passwords())
    (open_directory / "pg" / "data.new").mkdir(parents=True)
    (open_directory / "pg" / "data.new" / "PG_VERSION").write_text("18\n")
    server.prepare()
    assert (server.data / "PG_VERSION").exists()
    for path in (server.data / "postgresql.conf", server.data / "pg_hba.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "trust" not in (server.data / "pg_hba.conf").read_text().replace("trusted", "")


def test_a_socket_path_that_would_be_too_long_leaves_tcp(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    server = PostgresServer(deep / "pg", 5432, passwords())
    if os.geteuid() != 0:
        assert server.sockets is None
        assert server.dsn("api") == "postgresql+asyncpg://dumont_api@127.0.0.1:5432/dumont"
    assert server.dsn("api", socket=False).endswith("@127.0.0.1:5432/dumont")


def test_a_password_cannot_break_out_of_the_roles_script() -> None:
    script = roles_sql(passwords() | {"api": "x'; DROP ROLE dumont_owner; --"})
    assert "PASSWORD 'x''; DROP ROLE dumont_owner; --'" in script
    assert ":'dumont_" not in script


def test_a_directory_is_reachable_only_if_all_above_it_are(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True, mode=0o755)
    (tmp_path / "a").chmod(0o700)
    assert not reachable(inner)
    assert reachable(Path("/usr/bin"))


def test_under_root_postgres_has_an_account_of_its_own(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg", 5432, passwords())
    assert server.user == (ACCOUNT if os.geteuid() == 0 else None)
