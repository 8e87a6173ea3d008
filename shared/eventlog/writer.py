"""The log in Postgres, for the one service that writes it.

An append is one statement. It moves ``writer_lease.head`` from where this writer believes it to
be, under a live term, and only then inserts: the row lock makes appends serial, a stale belief
moves nothing, and a statement that lost a race leaves no trace. Whoever did not insert learns why
by looking. It goes through asyncpg itself, on a connection of SQLAlchemy's engine that is kept
for it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Row, Select, TextClause, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import Now, now
from shared.envelope import Envelope
from shared.eventlog.canonical import (
    GENESIS,
    Encoded,
    Record,
    distinct_ids,
    encoded,
    envelope_of,
    expected_versions,
    linked,
    placed,
)
from shared.eventlog.port import Batch, LeaseLostError, LogOlderError, WrongVersionError
from shared.eventlog.reader import PostgresReader, errors_sorted
from shared.eventlog.schema import event_log

_APPEND = """
WITH fence AS (
    UPDATE writer_lease
       SET head = head + cardinality($7::uuid[])
     WHERE id = 1 AND term = $1::bigint AND expires_at > clock_timestamp() AND head = $2::bigint
       AND NOT EXISTS (
           SELECT FROM unnest($3::text[], $4::int[]) AS s (stream_id, version)
            WHERE s.version <> (SELECT coalesce(max(e.version), 0) FROM event_log AS e
                                 WHERE e.stream_id = s.stream_id))
       AND NOT EXISTS (SELECT FROM event_log WHERE event_id = ANY ($7::uuid[]))
 RETURNING head)
INSERT INTO event_log (position, stream_id, version, event_id, type, schema_version, data,
                       metadata, occurred_at, recorded_at, prev_hash, hash)
SELECT $2::bigint + r.place, r.stream_id, r.version, r.event_id, r.type, r.schema_version,
       r.data::jsonb, r.metadata::jsonb, r.occurred_at, $13::timestamptz,
       substr($14::bytea, 32 * r.place::int - 31, 32), substr($14::bytea, 32 * r.place::int + 1, 32)
  FROM fence,
       unnest($5::text[], $6::int[], $7::uuid[], $8::text[], $9::smallint[], $10::text[],
              $11::text[], $12::timestamptz[])
       WITH ORDINALITY
       AS r (stream_id, version, event_id, type, schema_version, data, metadata, occurred_at,
             place)
"""
"""For asyncpg itself: SQLAlchemy's way there costs as much time as a small append.

An id that is recorded already stops it before the insert. There is no ON CONFLICT beside that: who
writes past the fence must break the whole statement, not leave a head without its rows.
"""

_LIVE = text("""
SELECT term = :term AND expires_at > clock_timestamp() AS live FROM writer_lease
""")

_VERSION = text("""
SELECT coalesce(max(version), 0) AS version FROM event_log WHERE stream_id = :stream
""")

_HEAD = text("SELECT position, hash FROM event_log ORDER BY position DESC LIMIT 1")

_ACQUIRE = text("""
UPDATE writer_lease
   SET term = term + 1, holder = :holder,
       expires_at = clock_timestamp() + make_interval(secs => :seconds)
 WHERE id = 1 AND (expires_at <= clock_timestamp() OR holder = :holder)
RETURNING term
""")

_RENEW = text("""
UPDATE writer_lease
   SET expires_at = clock_timestamp() + make_interval(secs => :seconds)
 WHERE id = 1 AND term = :term AND expires_at > clock_timestamp()
RETURNING term
""")

_RELEASE = text("""
UPDATE writer_lease SET expires_at = clock_timestamp() WHERE id = 1 AND term = :term
""")

_ADVANCE = text("""
UPDATE relay_cursor SET position = greatest(position, :position)
 WHERE id = 1
   AND EXISTS (SELECT FROM writer_lease WHERE term = :term AND expires_at > clock_timestamp())
RETURNING position
""")


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log ends."""

    position: int
    hash: bytes


_TRIES = 5
"""A belief about the head is put right in one look; more means that somebody else is writing."""


class PostgresWriter(PostgresReader):
    """Use it as ``async with PostgresWriter(dsn, password) as log``."""

    application = "dumont-writer"
    # Every look here is by an index. A plan made while the log was small says otherwise, and is
    # kept for the life of the connection.
    settings = MappingProxyType({"enable_seqscan": "off"})

    def __init__(self, dsn: str, password: str, *, now: Now = now) -> None:
        super().__init__(dsn, password)
        self._now = now
        self._append_lock = asyncio.Lock()
        self._head: Head | None = None
        self._newest = 0
        """The last position that this process knows to be recorded."""
        self._own: AsyncConnection | None = None
        self._driver: asyncpg.Connection | None = None

    async def __aexit__(self, *_: object) -> None:
        await self._disconnect()
        await super().__aexit__()

    async def acquire(self, holder: str, seconds: float) -> int | None:
        row = await self._execute(_ACQUIRE, holder=holder, seconds=seconds)
        return row.term if row else None

    async def renew(self, term: int, seconds: float) -> bool:
        return await self._execute(_RENEW, term=term, seconds=seconds) is not None

    async def release(self, term: int) -> None:
        async with self._answering() as connection:
            await connection.execute(_RELEASE, {"term": term})

    async def cursor(self) -> int:
        row = await self._execute(text("SELECT position FROM relay_cursor WHERE id = 1"))
        assert row is not None, "the migration made this row"
        return int(row.position)

    async def advance(self, position: int, *, term: int) -> None:
        if await self._execute(_ADVANCE, position=position, term=term) is None:
            raise LeaseLostError(f"term {term} is over: the relay's cursor stays")

    async def append(
        self, envelopes: Sequence[Envelope], *, term: int, expected_version: int
    ) -> list[Envelope]:
        batch = Batch(envelopes=envelopes, expected_version=expected_version)
        return await self.append_all([batch], term=term)

    async def append_all(self, batches: Sequence[Batch], *, term: int) -> list[Envelope]:
        ids = distinct_ids(batches)
        if not ids:
            return []
        # Before the lock: it needs no place in the log, and the one before us may be on its way.
        return await self.record(encoded(batches, term=term), term=term)

    async def record(self, events: Sequence[Encoded], *, term: int) -> list[Envelope]:
        """``append_all`` of what is encoded already."""
        async with self._append_lock:
            for _ in range(_TRIES):
                head = self._head or await self._look_at_head()
                if await self._inserted(events, head, term=term):
                    return placed(events, head=head.position)
                # What stands in the way first, our own ids after: so a twin of this append that
                # ended in between is found, and not taken for somebody else's.
                refusal = await self._refusal(events, term)
                if recorded := await self._recorded([event.said.id for event in events]):
                    return recorded
                if refusal is not None:
                    raise refusal
        raise LeaseLostError(
            f"term {term}: the log does not end where its lease says: run `dumont log verify`"
        )

    async def _inserted(self, events: Sequence[Encoded], head: Head, *, term: int) -> bool:
        """Run the one statement; False when it inserted nothing. Forgets the head in any doubt."""
        self._head = None
        recorded_at = self._now()
        hashes = linked(events, head=head.position, head_hash=head.hash, recorded_at=recorded_at)
        arguments = _arguments(events, head, hashes, recorded_at=recorded_at, term=term)
        if not await self._runs(arguments):
            return False
        self._head = Head(head.position + len(events), hashes[-1])
        self._newest = self._head.position
        return True

    async def _runs(self, arguments: Sequence[object]) -> bool:
        """Whether the statement inserted; a connection that is in doubt is not used again."""
        with errors_sorted():
            driver = self._driver or await self._connect()
            try:
                return bool(await driver.execute(_APPEND, *arguments) != "INSERT 0 0")
            except asyncpg.IntegrityConstraintViolationError:
                return False
            except BaseException:
                await self._disconnect()
                raise

    async def _connect(self) -> asyncpg.Connection:
        """A connection for appends alone: to borrow one each time would cost half an append."""
        self._own = await self._engine.connect()
        self._driver = (await self._own.get_raw_connection()).driver_connection
        return self._driver

    async def _disconnect(self) -> None:
        own, self._own, self._driver = self._own, None, None
        if own is not None:
            await own.invalidate()
            await own.close()

    async def _recorded(self, ids: list[UUID]) -> list[Envelope] | None:
        """The events of these ids when all are recorded, None when none is."""
        query = select(event_log).where(event_log.c.event_id.in_(ids))
        records = {record.event_id: record for record in await self._records(query)}
        if not records:
            return None
        if len(records) < len(ids):
            raise WrongVersionError("some of these events are recorded already, others are not")
        return [envelope_of(records[event_id]) for event_id in ids]

    async def _refusal(
        self, events: Sequence[Encoded], term: int
    ) -> LeaseLostError | WrongVersionError | None:
        """Why nothing was inserted; None when only the head was not where we thought."""
        row = await self._execute(_LIVE, term=term)
        if row is None or not row.live:
            return LeaseLostError(f"term {term} is over: nothing was appended")
        for stream, expected in expected_versions(events).items():
            found = await self._execute(_VERSION, stream=stream)
            if found is not None and found.version != expected:
                what = f"{stream} is at version {found.version}, not {expected}"
                return WrongVersionError(what)
        return None

    async def _look_at_head(self) -> Head:
        row = await self._execute(_HEAD)
        head = Head(int(row.position), bytes(row.hash)) if row else Head(0, GENESIS)
        if head.position < self._newest:
            raise LogOlderError(
                f"the log ends at {head.position} and held {self._newest}: it is an old copy"
            )
        return head

    async def _records(self, query: Select[Any]) -> list[Record]:
        records = await super()._records(query)
        self._newest = max([self._newest, *(record.position for record in records[-1:])])
        return records

    async def _execute(self, statement: TextClause, **parameters: object) -> Row[Any] | None:
        async with self._answering() as connection:
            return (await connection.execute(statement, parameters)).first()


def _arguments(
    events: Sequence[Encoded],
    head: Head,
    hashes: Sequence[bytes],
    *,
    recorded_at: datetime,
    term: int,
) -> tuple[object, ...]:
    """In the order of the statement's parameters."""
    expected = expected_versions(events)
    return (
        term,
        head.position,
        list(expected.keys()),
        list(expected.values()),
        [event.stream_id for event in events],
        [event.version for event in events],
        [event.said.id for event in events],
        [event.event.type for event in events],
        [event.event.version for event in events],
        [event.data for event in events],
        [event.metadata for event in events],
        [event.time for event in events],
        recorded_at,
        b"".join((head.hash, *hashes)),
    )
