"""The log in Postgres while its database is slow, cut off, read-only, full, or an older copy."""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

import pytest
from sqlalchemy import make_url

from shared.eventlog.port import LogOlderError, LogUnknownError
from shared.eventlog.reader import PostgresReader
from shared.eventlog.verify import verify
from shared.eventlog.writer import PostgresWriter
from tests.contract.test_eventlog import emptied, held, said, writer
from tests.support.faults import fault
from tests.support.servers import Postgres
from tests.support.toxic import Way, way_to

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@fault(38)
async def test_an_append_whose_answer_is_lost_is_settled_by_saying_it_again(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.eventlog.reader.COMMAND_TIMEOUT", 0.5)
    monkeypatch.setattr("shared.eventlog.reader.CONNECT_TIMEOUT", 0.5)
    await postgres.empty()
    with way_to(postgres.server.port) as way:
        async with PostgresWriter(dsn_by(way, postgres), postgres.passwords["recovery"]) as log:
            term = await held(log)
            await log.append([said(1)], term=term, expected_version=0)
            batch = [said(2), said(3)]
            way.mute = True
            with pytest.raises(LogUnknownError):
                await log.append(batch, term=term, expected_version=1)
            with pytest.raises(LogUnknownError):
                await log.head()
            way.mute = False
            settled = await log.append(batch, term=term, expected_version=1)
            assert [envelope.position for envelope in settled] == [2, 3]
            await log.append([said(4)], term=term, expected_version=3)
            assert await verify(log) == []


def dsn_by(way: Way, server: Postgres, role: str = "recovery") -> str:
    return make_url(server.dsn(role, socket=False)).set(port=way.port).render_as_string()


@fault(41)
async def test_a_slow_database_is_one_that_does_not_answer_and_serves_again_when_it_is_quick(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.eventlog.reader.COMMAND_TIMEOUT", 0.3)
    monkeypatch.setattr("shared.eventlog.reader.CONNECT_TIMEOUT", 0.3)
    await postgres.empty()
    with way_to(postgres.server.port) as way:
        async with PostgresWriter(dsn_by(way, postgres), postgres.passwords["recovery"]) as log:
            term = await held(log)
            way.slow = 2.0
            began = time.monotonic()
            with pytest.raises(LogUnknownError):
                await log.append([said(1)], term=term, expected_version=0)
            # More than the pool holds: they wait for it no longer than for an answer.
            answers = await asyncio.gather(*(log.head() for _ in range(9)), return_exceptions=True)
            assert {type(answer) for answer in answers} == {LogUnknownError}
            assert time.monotonic() - began < 5
            way.slow = 0.0
            head = await log.head()
            await log.append([said(2)], term=term, expected_version=head)
            assert await verify(log) == []


@fault(38)
async def test_a_path_that_is_cut_between_commit_and_answer_is_settled_by_event_id(
    postgres: Postgres,
) -> None:
    await postgres.empty()
    with way_to(postgres.server.port) as way:
        async with PostgresWriter(dsn_by(way, postgres), postgres.passwords["recovery"]) as log:
            term = await held(log)
            await log.append([said(1)], term=term, expected_version=0)
            event = said(2)
            way.mute = True
            appending = asyncio.create_task(log.append([event], term=term, expected_version=1))
            async with PostgresReader(postgres.dsn("api"), postgres.passwords["api"]) as reader:
                async with asyncio.timeout(10):
                    while await reader.head() < 2:
                        await asyncio.sleep(0.01)
            way.cut = True
            with pytest.raises(LogUnknownError):
                await appending
            way.heal()
            (recorded,) = await log.append([event], term=term, expected_version=1)
            assert (recorded.id, recorded.position, await log.head()) == (event.id, 2, 2)


@fault(40)
async def test_a_database_that_takes_nothing_is_waited_for_and_still_read(
    postgres: Postgres,
) -> None:
    async with emptied(postgres) as (log, term):
        await log.append([said(1)], term=term, expected_version=0)
        async with writer(postgres) as fresh:
            await read_only(postgres, "on")
            try:
                for refused in (
                    fresh.append([said(2)], term=term, expected_version=1),
                    fresh.renew(term, 30),
                    fresh.acquire("another", 30),
                    fresh.advance(1, term=term),
                    fresh.release(term),
                ):
                    with pytest.raises(LogUnknownError, match="read-only"):
                        await refused
                assert await fresh.head() == 1
            finally:
                await read_only(postgres, "off")
            # The connections of then are read-only for ever: each is met once more, and dropped.
            renewed = [await answered(fresh.renew(term, 30)) for _ in range(3)]
            assert renewed[-1], renewed
            await fresh.append([said(2)], term=term, expected_version=1)
            assert await verify(fresh) == []


async def answered(asked: Awaitable[T]) -> T | None:
    try:
        return await asked
    except LogUnknownError:
        return None


async def read_only(server: Postgres, value: str) -> None:
    """What a managed database does to us when its disk is nearly full, or after a failover."""
    await server.query(f"ALTER DATABASE dumont SET default_transaction_read_only = {value}")


@fault(39)
@fault(44)
async def test_a_log_that_is_exchanged_for_an_older_copy_takes_no_more_of_this_writer(
    postgres: Postgres,
) -> None:
    async with emptied(postgres) as (log, term):
        for version in range(3):
            await log.append([said(version)], term=term, expected_version=version)
        async with writer(postgres) as another:
            await another.read()
            await postgres.tamper(
                "DELETE FROM event_log WHERE position > 2; UPDATE writer_lease SET head = 2"
            )
            for old_hand in (log, another):
                with pytest.raises(LogOlderError, match="ends at 2 and held 3"):
                    await old_hand.append([said(9)], term=term, expected_version=2)
        assert await log.head() == 2
