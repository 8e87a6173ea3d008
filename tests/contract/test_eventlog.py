"""What every log promises, and what only a real database can break."""

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from uuid import UUID, uuid4

import asyncpg
import pytest

from cli.embedded.postgres import ROLES
from lab import clock
from lab.book import Book, Truth
from services.recovery.setup import migrate
from shared.codec import UndecodableError
from shared.envelope import Envelope
from shared.eventlog.canonical import digest
from shared.eventlog.heads import ExportedHead
from shared.eventlog.memory import MemoryLog
from shared.eventlog.port import (
    Batch,
    LeaseLostError,
    LogRefusedError,
    LogUnknownError,
    LogWriter,
    WrongVersionError,
)
from shared.eventlog.reader import PostgresReader
from shared.eventlog.verify import Records, verify
from shared.eventlog.writer import PostgresWriter
from shared.events.recovery import FailoverCompleted, RecoveryStarted
from shared.events.requests import RequestReceived
from shared.machines import MachineId, WorkspaceName
from tests.support.faults import fault
from tests.support.servers import Postgres
from tests.support.toxic import way_to

pytestmark = pytest.mark.anyio

WS = WorkspaceName("train")
OTHER = WorkspaceName("other")
LONG = 60.0


class Log(LogWriter, Records):
    """What both logs are."""


def said(number: int = 0, workspace: WorkspaceName = WS) -> Envelope:
    return Envelope(
        id=uuid4(),
        source="recovery",
        time=datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC),
        event=RecoveryStarted(workspace=workspace, epoch=number, reason=f"number {number}"),
        correlation=UUID(int=7),
    )


def asked(arguments: dict[str, object]) -> Envelope:
    return Envelope(
        id=uuid4(),
        source="api",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        event=RequestReceived(
            workspace=WS, epoch=0, verb="pause", actor="key", arguments=arguments
        ),
        causation=UUID(int=9),
    )


def writer(server: Postgres) -> PostgresWriter:
    return PostgresWriter(server.dsn("recovery"), server.passwords["recovery"])


@pytest.fixture(params=["memory", "lab", "postgres"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[LogWriter]:
    if request.param == "memory":
        yield MemoryLog()
        return
    if request.param == "lab":
        yield Book(Truth(now=clock.now), Random(1))
        return
    server: Postgres = request.getfixturevalue("postgres")
    await server.empty()
    async with writer(server) as real:
        yield real


@asynccontextmanager
async def emptied(server: Postgres) -> AsyncIterator[tuple[PostgresWriter, int]]:
    """A writer with a term, on a log that begins empty."""
    await server.empty()
    async with writer(server) as log:
        term = await log.acquire("test", LONG)
        assert term is not None
        yield log, term


async def held(log: LogWriter) -> int:
    term = await log.acquire("test", LONG)
    assert term is not None
    return term


# --- appending and reading -------------------------------------------------------------------


async def test_events_get_positions_without_gaps_and_are_read_back_as_said(log: LogWriter) -> None:
    term = await held(log)
    first, second, third = said(1), said(2, OTHER), said(3)
    appended = [
        *await log.append([first], term=term, expected_version=0),
        *await log.append([second], term=term, expected_version=0),
        *await log.append([third], term=term, expected_version=1),
    ]
    expected = [
        replace(envelope, position=position)
        for position, envelope in enumerate((first, second, third), start=1)
    ]
    assert appended == expected
    assert await log.read() == expected
    assert await log.read(after=1, limit=1) == expected[1:2]
    assert await log.read_workspace(WS) == [expected[0], expected[2]]
    assert await log.read_workspace(WS, after=1) == [expected[2]]
    assert await log.head() == 3
    assert await log.known([first.id, uuid4()]) == {first.id}


async def test_an_empty_log_says_so(log: LogWriter) -> None:
    assert (await log.read(), await log.head(), await log.cursor()) == ([], 0, 0)
    assert await log.known([]) == set()


async def test_several_events_are_recorded_all_or_none(log: LogWriter) -> None:
    term = await held(log)
    many = [said(number) for number in range(300)]
    appended = await log.append(many, term=term, expected_version=0)
    assert [envelope.position for envelope in appended] == list(range(1, 301))
    with pytest.raises(WrongVersionError):
        await log.append([said(), many[0]], term=term, expected_version=300)
    assert await log.head() == 300


async def test_an_append_that_was_done_already_changes_nothing(log: LogWriter) -> None:
    term = await held(log)
    batch = [said(1), said(2)]
    first = await log.append(batch, term=term, expected_version=0)
    await log.append([said(3)], term=term, expected_version=2)
    assert await log.append(batch, term=term, expected_version=0) == first
    assert await log.head() == 3


async def test_a_decision_on_an_old_version_is_refused(log: LogWriter) -> None:
    term = await held(log)
    await log.append([said(1)], term=term, expected_version=0)
    for stale in (0, 2):
        with pytest.raises(WrongVersionError):
            await log.append([said(2)], term=term, expected_version=stale)
    assert await log.head() == 1


# --- appending for many workspaces -----------------------------------------------------------


def of(*envelopes: Envelope, after: int) -> Batch:
    return Batch(envelopes=envelopes, expected_version=after)


async def test_batches_of_many_workspaces_are_recorded_together_in_the_order_given(
    log: Log,
) -> None:
    term = await held(log)
    await log.append([said(0)], term=term, expected_version=0)
    one, two, three = said(1), said(2, OTHER), said(3)
    appended = await log.append_all(
        [of(one, after=1), of(two, after=0), of(three, after=2)], term=term
    )
    expected = [
        replace(envelope, position=position)
        for position, envelope in enumerate((one, two, three), start=2)
    ]
    assert appended == expected
    assert await log.read(after=1) == expected
    await log.append([said(4, OTHER)], term=term, expected_version=1)
    assert await verify(log) == []


async def test_one_batch_with_an_old_version_keeps_all_of_them_out(log: Log) -> None:
    term = await held(log)
    await log.append([said(1, OTHER)], term=term, expected_version=0)
    for stale in (0, 2):
        with pytest.raises(WrongVersionError, match=OTHER):
            await log.append_all([of(said(2), after=0), of(said(3, OTHER), after=stale)], term=term)
    assert await log.head() == 1
    await log.append_all([of(said(2), after=0), of(said(3, OTHER), after=1)], term=term)
    assert await verify(log) == []


async def test_batches_that_were_recorded_already_change_nothing(log: Log) -> None:
    term = await held(log)
    batches = [of(said(1), after=0), of(said(2, OTHER), after=0)]
    first = await log.append_all(batches, term=term)
    assert await log.append_all(batches, term=term) == first
    with pytest.raises(WrongVersionError):
        await log.append_all([*batches, of(said(3), after=1)], term=term)
    assert await log.head() == 2
    assert await verify(log) == []


async def test_batches_of_one_workspace_follow_each_other(log: LogWriter) -> None:
    term = await held(log)
    with pytest.raises(ValueError, match="follow each other"):
        await log.append_all([of(said(1), after=0), of(said(2), after=3)], term=term)
    twice = said(1)
    with pytest.raises(ValueError, match="once"):
        await log.append_all([of(twice, after=0), of(twice, after=1)], term=term)
    assert await log.append_all([], term=term) == []
    assert await log.head() == 0


async def test_no_batch_is_recorded_without_a_live_term(log: LogWriter) -> None:
    term = await held(log)
    await log.release(term)
    with pytest.raises(LeaseLostError):
        await log.append_all([of(said(1), after=0)], term=term)
    assert await log.head() == 0


async def test_nothing_to_append_is_nothing(log: LogWriter) -> None:
    assert await log.append([], term=await held(log), expected_version=0) == []


async def test_one_append_is_about_one_workspace_and_holds_each_id_once(log: LogWriter) -> None:
    term = await held(log)
    with pytest.raises(ValueError, match="one workspace"):
        await log.append([said(1), said(2, OTHER)], term=term, expected_version=0)
    twice = said(1)
    with pytest.raises(ValueError, match="once"):
        await log.append([twice, twice], term=term, expected_version=0)


ODD = [
    {"text": "a\0b"},
    {"text": "lone \ud800 surrogate", "k\0": 1},
    {"whole": 1.0, "big": 1e22, "small": 1e-7, "third": 1 / 3, "minus": -0.0, "huge": 10**40},
    {"nested": [1, 2.0, {"a": None, "b": [True, "ä€😀"]}]},
    {"empty": {}, "list": []},
]


@pytest.mark.parametrize("arguments", ODD)
async def test_whatever_is_said_can_be_kept_read_and_verified(
    log: Log, arguments: dict[str, object]
) -> None:
    term = await held(log)
    appended = await log.append([asked(arguments)], term=term, expected_version=0)
    assert await log.read() == appended
    assert await verify(log) == []


async def test_what_could_not_be_read_back_is_never_recorded(log: Log) -> None:
    term = await held(log)
    kept = await log.append([said(1)], term=term, expected_version=0)
    event = RecoveryStarted(workspace=WS, epoch=2, reason=None)  # type: ignore[arg-type]
    unreadable = replace(said(2), event=event)
    with pytest.raises(UndecodableError, match="reason"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic says it too
        await log.append([unreadable], term=term, expected_version=1)
    assert await log.read() == kept
    assert await verify(log) == []


async def test_a_time_without_a_zone_is_one_in_utc(log: Log) -> None:
    naive = replace(said(), time=datetime(2026, 1, 1, 12))  # noqa: DTZ001
    appended = await log.append([naive], term=await held(log), expected_version=0)
    assert appended[0].time == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert await log.read() == appended
    assert await verify(log) == []


async def test_numbers_with_a_fraction_stay_what_they_were(log: Log) -> None:
    event = FailoverCompleted(
        workspace=WS, epoch=1, standby=MachineId("s"), generation="g", seconds=2.0
    )
    envelope = replace(said(), event=event)
    await log.append([envelope], term=await held(log), expected_version=0)
    read = (await log.read())[0].event
    assert read == event
    assert isinstance(read, FailoverCompleted)
    assert isinstance(read.seconds, float)


# --- the lease -------------------------------------------------------------------------------


async def test_one_holds_the_lease_at_a_time(log: LogWriter) -> None:
    term = await log.acquire("one", LONG)
    assert term is not None
    assert await log.acquire("two", LONG) is None
    await log.release(term)
    successor = await log.acquire("two", LONG)
    assert successor is not None
    assert successor > term


async def test_a_lease_that_ran_out_is_taken_over_and_its_holder_cannot_write(
    log: LogWriter,
) -> None:
    old = await log.acquire("one", 0.2)
    assert old is not None
    await log.append([said(1)], term=old, expected_version=0)
    async with asyncio.timeout(5):
        while (new := await log.acquire("two", LONG)) is None:
            await asyncio.sleep(0.02)
    with pytest.raises(LeaseLostError):
        await log.append([said(2)], term=old, expected_version=1)
    with pytest.raises(LeaseLostError):
        await log.advance(1, term=old)
    assert not await log.renew(old, LONG)
    await log.append([said(3)], term=new, expected_version=1)
    assert await log.head() == 2


async def test_a_lease_that_ran_out_is_over_even_if_nobody_took_it(log: LogWriter) -> None:
    term = await log.acquire("one", 0.05)
    assert term is not None
    await asyncio.sleep(0.1)
    with pytest.raises(LeaseLostError):
        await log.append([said()], term=term, expected_version=0)
    assert not await log.renew(term, LONG)


async def test_a_renewed_lease_lives_on(log: LogWriter) -> None:
    term = await log.acquire("one", 0.3)
    assert term is not None
    assert await log.renew(term, LONG)
    await asyncio.sleep(0.35)
    await log.append([said()], term=term, expected_version=0)


async def test_a_process_that_starts_again_under_its_name_need_not_wait(log: LogWriter) -> None:
    before = await log.acquire("recovery-1", LONG)
    after = await log.acquire("recovery-1", LONG)
    assert before is not None
    assert after is not None
    with pytest.raises(LeaseLostError):
        await log.append([said()], term=before, expected_version=0)
    await log.append([said()], term=after, expected_version=0)


async def test_what_is_recorded_already_needs_no_lease_to_be_known(log: LogWriter) -> None:
    term = await held(log)
    batch = [said()]
    appended = await log.append(batch, term=term, expected_version=0)
    await log.release(term)
    assert await log.append(batch, term=term, expected_version=0) == appended


async def test_the_cursor_only_moves_forward(log: LogWriter) -> None:
    term = await held(log)
    await log.advance(7, term=term)
    await log.advance(3, term=term)
    assert await log.cursor() == 7


# --- what only a real database does ----------------------------------------------------------

REFUSED = (
    "UPDATE event_log SET type = 'x'",
    "DELETE FROM event_log",
    "TRUNCATE event_log",
    "UPDATE event_log SET data = '{}' WHERE false",
)


@fault(45)
@pytest.mark.parametrize("role", ROLES)
async def test_no_role_can_change_or_delete_what_is_recorded(postgres: Postgres, role: str) -> None:
    async with emptied(postgres) as (log, term):
        appended = await log.append([said()], term=term, expected_version=0)
        for statement in REFUSED:
            with pytest.raises(
                (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)
            ):
                await postgres.query(statement, role=role)
        assert await log.read() == appended


@pytest.mark.parametrize("role", ["api", "reader"])
async def test_those_who_read_cannot_write(postgres: Postgres, role: str) -> None:
    for statement in (
        "SET default_transaction_read_only = off; INSERT INTO relay_cursor VALUES (1, 1)",
        "UPDATE writer_lease SET term = 99",
        "CREATE TABLE mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
    ):
        with pytest.raises(asyncpg.PostgresError):
            await postgres.query(f"{statement}", role=role)
    async with PostgresReader(postgres.dsn(role), postgres.passwords[role]) as log:
        await log.ping()
        assert isinstance(await log.read(), list)


async def test_the_guard_holds_in_replica_mode_too(postgres: Postgres) -> None:
    async with emptied(postgres) as (log, term):
        await log.append([said()], term=term, expected_version=0)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await postgres.query(
                "DO $$ BEGIN SET session_replication_role = replica; DELETE FROM event_log; END $$"
            )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("socket", [True, False])
async def test_nobody_is_let_in_without_the_password(
    postgres: Postgres, role: str, socket: bool
) -> None:
    dsn = postgres.dsn(role, socket=socket).replace("+asyncpg", "")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(dsn, password="guessed")
    connection = await asyncpg.connect(dsn, password=postgres.passwords[role])
    await connection.close()


TAMPERINGS: list[tuple[str, str]] = [
    ('UPDATE event_log SET data = data || \'{"reason": "other"}\' WHERE position = 2', "changed"),
    ("UPDATE event_log SET recorded_at = now() WHERE position = 3", "changed"),
    ("UPDATE event_log SET metadata = metadata || '{\"term\": 9}' WHERE position = 1", "changed"),
    ("DELETE FROM event_log WHERE position = 2", "missing"),
    ("DELETE FROM event_log WHERE position = 4", "missing at the end"),
    ("UPDATE event_log SET version = 9 WHERE position = 4", "version 9"),
    ("UPDATE event_log SET hash = sha256('x') WHERE position = 2", "chain is broken"),
]


@fault(45)
@pytest.mark.parametrize(("statement", "finding"), TAMPERINGS)
async def test_tampering_past_the_guard_is_found(
    postgres: Postgres, statement: str, finding: str
) -> None:
    async with emptied(postgres) as (log, term):
        await log.append([said(n) for n in range(4)], term=term, expected_version=0)
        assert await verify(log, page=3) == []
        await postgres.tamper(statement)
        assert any(finding in found.what for found in await verify(log, page=3))


async def exported(log: Records) -> list[ExportedHead]:
    return [
        ExportedHead(position=record.position, hash=record.hash) for record in await log.records()
    ]


async def test_a_log_that_was_only_added_to_contains_every_head_that_was_exported(
    log: Log,
) -> None:
    term = await held(log)
    await log.append([said(n) for n in range(3)], term=term, expected_version=0)
    heads = await exported(log)
    await log.append([said(n) for n in range(2)], term=term, expected_version=3)
    assert await verify(log, heads=heads) == []


@fault(45)
async def test_a_superuser_who_writes_the_whole_chain_anew_is_found_by_an_exported_head(
    postgres: Postgres,
) -> None:
    async with emptied(postgres) as (log, term):
        await log.append([said(n) for n in range(4)], term=term, expected_version=0)
        heads = await exported(log)
        await postgres.tamper(
            'UPDATE event_log SET data = data || \'{"reason": "other"}\' WHERE position = 2'
        )
        previous = bytes(32)
        for record in await log.records():
            anew = digest(replace(record, prev_hash=previous))
            await postgres.tamper(
                f"UPDATE event_log SET prev_hash = '\\x{previous.hex()}', "
                f"hash = '\\x{anew.hex()}' WHERE position = {record.position}"
            )
            previous = anew
        assert await verify(log) == [], "the log fits in itself"
        assert await verify(log, heads=heads[:1]) == [], "it was not changed before this head"
        [found] = await verify(log, heads=heads[3:])
        assert found.position == 4
        assert "written anew" in found.what


@fault(45)
async def test_a_superuser_who_cuts_off_the_end_is_found_by_an_exported_head(
    postgres: Postgres,
) -> None:
    async with emptied(postgres) as (log, term):
        await log.append([said(n) for n in range(4)], term=term, expected_version=0)
        heads = await exported(log)
        await postgres.tamper(
            "DELETE FROM event_log WHERE position > 2; UPDATE writer_lease SET head = 2;"
            "UPDATE relay_cursor SET position = 0"
        )
        assert await verify(log) == [], "the log fits in itself"
        found = await verify(log, heads=heads)
        assert [finding.position for finding in found] == [3, 4]
        assert all("cut" in finding.what for finding in found)


@fault(43)
async def test_a_reader_that_follows_positions_never_skips_an_event(postgres: Postgres) -> None:
    async with emptied(postgres) as (log, term):
        seen: list[int] = []

        async def follow() -> None:
            async with PostgresReader(postgres.dsn("api"), postgres.passwords["api"]) as api:
                while len(seen) < 200:
                    found = await api.read(after=seen[-1] if seen else 0)
                    seen.extend(envelope.position or 0 for envelope in found)

        async def speak(name: WorkspaceName) -> None:
            for number in range(50):
                await log.append([said(number, name)], term=term, expected_version=number)

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(follow())
            for index in range(4):
                group.create_task(speak(WorkspaceName(f"w{index}")))
        assert seen == list(range(1, 201))
        assert await verify(log) == []


@fault(42)
async def test_two_processes_with_one_term_cannot_break_the_chain(postgres: Postgres) -> None:
    async with emptied(postgres) as (log, term), AsyncExitStack() as stack:
        twin = await stack.enter_async_context(writer(postgres))
        for number in range(10):
            one = log.append([said(number)], term=term, expected_version=number)
            two = twin.append([said(number, OTHER)], term=term, expected_version=number)
            await asyncio.gather(one, two)
        same = said(99)
        answers = await asyncio.gather(
            *(each.append([same], term=term, expected_version=10) for each in (log, twin) * 3)
        )
        assert len({answer[0].position for answer in answers}) == 1
        rivals = await asyncio.gather(
            *(each.append([said()], term=term, expected_version=11) for each in (log, twin) * 3),
            return_exceptions=True,
        )
        assert sum(isinstance(rival, WrongVersionError) for rival in rivals) == 5
        assert await log.head() == 22
        assert await verify(log) == []


@fault(47)
async def test_an_append_that_was_held_up_on_the_way_is_refused_after_a_takeover(
    postgres: Postgres,
) -> None:
    await postgres.empty()
    with way_to(postgres.server.port) as way:
        dsn = f"postgresql+asyncpg://dumont_recovery@127.0.0.1:{way.port}/dumont"
        async with (
            PostgresWriter(dsn, postgres.passwords["recovery"]) as cut,
            writer(postgres) as log,
        ):
            old = await cut.acquire("cut off", 1.0)
            assert old is not None
            kept = await cut.append([said(1)], term=old, expected_version=0)
            way.hole = True
            late = asyncio.create_task(cut.append([said(2)], term=old, expected_version=1))
            while (term := await log.acquire("successor", LONG)) is None:
                await asyncio.sleep(0.1)
            kept += await log.append([said(3)], term=term, expected_version=1)
            way.heal()
            with pytest.raises((LeaseLostError, LogUnknownError)):
                await late
            with pytest.raises(LeaseLostError):
                await cut.append([said(4)], term=old, expected_version=2)
            assert await log.read() == kept


@fault(37)
async def test_a_killed_database_keeps_what_it_acknowledged(postgres: Postgres) -> None:
    async with emptied(postgres) as (log, term):
        kept = await log.append([said(1), said(2)], term=term, expected_version=0)
        postgres.kill()
        with pytest.raises(LogUnknownError):
            await log.append([said(3)], term=term, expected_version=2)
        with pytest.raises(LogUnknownError):
            await log.read()
        await asyncio.to_thread(postgres.start)
        assert await log.read() == kept
        await log.append([said(4)], term=term, expected_version=2)
        assert await verify(log) == []


async def test_a_wrong_password_is_no_silence(postgres: Postgres) -> None:
    async with PostgresReader(postgres.dsn("api"), "wrong") as log:
        with pytest.raises(LogRefusedError):
            await log.ping()


async def test_a_database_without_a_schema_says_so(postgres: Postgres) -> None:
    dsn = postgres.server.dsn("admin", database="postgres")
    async with PostgresReader(dsn, postgres.passwords["admin"]) as log:
        with pytest.raises(LogRefusedError, match="event_log"):
            await log.ping()


async def test_a_cancelled_append_leaves_the_log_usable(postgres: Postgres) -> None:
    async with emptied(postgres) as (log, term):
        for delay in (0.0, 0.001, 0.002, 0.004):
            task = asyncio.create_task(
                log.append([said()], term=term, expected_version=await log.head())
            )
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        version = await log.head()
        await log.append([said()], term=term, expected_version=version)
        assert await verify(log) == []


async def test_migrating_again_changes_nothing(postgres: Postgres) -> None:
    async with emptied(postgres) as (log, term):
        await log.append([said()], term=term, expected_version=0)
        await asyncio.gather(
            *(migrate(postgres.dsn("owner"), postgres.passwords["owner"]) for _ in range(2))
        )
        assert await log.head() == 1


async def test_the_log_keeps_no_password_in_what_it_shows(postgres: Postgres) -> None:
    async with PostgresReader(postgres.dsn("api"), "very-secret") as log:
        with pytest.raises(LogRefusedError) as refused:
            await log.ping()
        assert "very-secret" not in str(refused.value)
        assert "very-secret" not in repr(log._engine)
