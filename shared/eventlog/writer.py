"""The log in Postgres, for the one service that writes it.

An append is one statement. It moves ``writer_lease.head`` from where this writer believes it to
be, under a live term, and only then inserts: the row lock makes appends serial, a stale belief
moves nothing, and a statement that lost a race leaves no trace. Whoever did not insert learns why
by looking.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, TextClause, select, text
from sqlalchemy.exc import IntegrityError

from shared.clock import Now, now
from shared.envelope import Envelope
from shared.eventlog.canonical import GENESIS, Record, chain, distinct_ids, envelope_of
from shared.eventlog.port import LeaseLostError, LogOlderError, WrongVersionError
from shared.eventlog.reader import PostgresReader
from shared.eventlog.schema import event_log

_APPEND = text("""
WITH fence AS (
    UPDATE writer_lease
       SET head = head + :count
     WHERE id = 1 AND term = :term AND expires_at > clock_timestamp() AND head = :head
       AND :version = (SELECT coalesce(max(version), 0) FROM event_log WHERE stream_id = :stream)
       AND NOT EXISTS (SELECT FROM event_log WHERE event_id = ANY (CAST(:ids AS uuid[])))
 RETURNING head)
INSERT INTO event_log (position, stream_id, version, event_id, type, schema_version, data,
                       metadata, occurred_at, recorded_at, prev_hash, hash)
SELECT r.position, :stream, r.version, r.event_id, r.type, r.schema_version, r.data::jsonb,
       r.metadata::jsonb, r.occurred_at, :recorded_at, r.prev_hash, r.hash
  FROM fence,
       unnest(CAST(:positions AS bigint[]), CAST(:versions AS int[]), CAST(:ids AS uuid[]),
              CAST(:types AS text[]), CAST(:schema_versions AS smallint[]),
              CAST(:data AS text[]), CAST(:metadata AS text[]),
              CAST(:occurred AS timestamptz[]), CAST(:prev_hashes AS bytea[]),
              CAST(:hashes AS bytea[]))
       AS r (position, version, event_id, type, schema_version, data, metadata, occurred_at,
             prev_hash, hash)
 ORDER BY r.position
    ON CONFLICT (event_id) DO NOTHING
 RETURNING position
""")

_WHY = text("""
SELECT (SELECT term = :term AND expires_at > clock_timestamp() FROM writer_lease) AS live,
       (SELECT coalesce(max(version), 0) FROM event_log WHERE stream_id = :stream) AS version
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

_TRIES = 5
"""A belief about the head is put right in one look; more means that somebody else is writing."""


class PostgresWriter(PostgresReader):
    """Use it as ``async with PostgresWriter(dsn, password) as log``."""

    application = "dumont-writer"

    def __init__(self, dsn: str, password: str, *, now: Now = now) -> None:
        super().__init__(dsn, password)
        self._now = now
        self._append_lock = asyncio.Lock()
        self._head: tuple[int, bytes] | None = None
        self._newest = 0
        """The last position that this process knows to be recorded."""

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
        ids = distinct_ids(envelopes)
        if not ids:
            return []
        async with self._append_lock:
            for _ in range(_TRIES):
                head, head_hash = self._head or await self._look_at_head()
                records = chain(
                    envelopes,
                    head=head,
                    head_hash=head_hash,
                    version=expected_version,
                    term=term,
                    at=self._now(),
                )
                if await self._inserted(records, head=head, version=expected_version, term=term):
                    self._head = (records[-1].position, records[-1].hash)
                    self._newest = records[-1].position
                    return [envelope_of(record) for record in records]
                self._head = None
                # What stands in the way first, our own ids after: so a twin of this append that
                # ended in between is found, and not taken for somebody else's.
                refusal = await self._refusal(records[0].stream_id, expected_version, term)
                if recorded := await self._recorded(ids):
                    return recorded
                if refusal is not None:
                    raise refusal
        raise LeaseLostError(
            f"term {term}: the log does not end where its lease says: run `dumont log verify`"
        )

    async def _inserted(self, records: list[Record], *, head: int, version: int, term: int) -> bool:
        """Run the one statement; False when it inserted nothing. Forgets the head in any doubt."""
        self._head = None
        try:
            async with self._answering() as connection:
                result = await connection.execute(
                    _APPEND, _parameters(records, head=head, version=version, term=term)
                )
                return len(result.all()) == len(records)
        except IntegrityError:
            return False

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
        self, stream: str, expected_version: int, term: int
    ) -> LeaseLostError | WrongVersionError | None:
        """Why nothing was inserted; None when only the head was not where we thought."""
        row = await self._execute(_WHY, term=term, stream=stream)
        if row is None or not row.live:
            return LeaseLostError(f"term {term} is over: nothing was appended")
        if row.version != expected_version:
            what = f"{stream} is at version {row.version}, not {expected_version}"
            return WrongVersionError(what)
        return None

    async def _look_at_head(self) -> tuple[int, bytes]:
        row = await self._execute(_HEAD)
        head, head_hash = (int(row.position), bytes(row.hash)) if row else (0, GENESIS)
        if head < self._newest:
            raise LogOlderError(
                f"the log ends at {head} and held {self._newest}: it is an old copy"
            )
        return head, head_hash

    async def _records(self, query: Select[Any]) -> list[Record]:
        records = await super()._records(query)
        self._newest = max([self._newest, *(record.position for record in records[-1:])])
        return records

    async def _execute(self, statement: TextClause, **parameters: object) -> Row[Any] | None:
        async with self._answering() as connection:
            return (await connection.execute(statement, parameters)).first()


def _parameters(records: list[Record], *, head: int, version: int, term: int) -> dict[str, object]:
    return {
        "count": len(records),
        "head": head,
        "term": term,
        "stream": records[0].stream_id,
        "version": version,
        "recorded_at": records[0].recorded_at,
        "ids": [record.event_id for record in records],
        "positions": [record.position for record in records],
        "versions": [record.version for record in records],
        "types": [record.type for record in records],
        "schema_versions": [record.schema_version for record in records],
        "data": [json.dumps(record.data, allow_nan=False) for record in records],
        "metadata": [json.dumps(record.metadata, allow_nan=False) for record in records],
        "occurred": [record.occurred_at for record in records],
        "prev_hashes": [record.prev_hash for record in records],
        "hashes": [record.hash for record in records],
    }
