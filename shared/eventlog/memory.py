"""The log inside one process, for unit tests: same promises, nothing kept."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from shared.clock import Now, now
from shared.envelope import Envelope
from shared.eventlog.canonical import GENESIS, Record, chain, distinct_ids, envelope_of
from shared.eventlog.port import (
    LeaseLostError,
    LogUnknownError,
    WrongVersionError,
    stream_id,
)
from shared.machines import WorkspaceName

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class MemoryLog:
    """Set ``answering`` to False and it falls silent. Leases expire by ``now`` too."""

    now: Now = now
    answering: bool = True
    rows: list[Record] = field(default_factory=list)
    _term: int = 0
    _holder: str = ""
    _expires_at: datetime = LONG_AGO
    _cursor: int = 0

    async def read(self, *, after: int = 0, limit: int = 1000) -> list[Envelope]:
        return [envelope_of(record) for record in await self.records(after=after, limit=limit)]

    async def read_workspace(
        self, workspace: WorkspaceName, *, after: int = 0, limit: int = 1000
    ) -> list[Envelope]:
        self._must_answer()
        stream = stream_id(workspace)
        found = [row for row in self.rows[after:] if row.stream_id == stream]
        return [envelope_of(row) for row in found[:limit]]

    async def head(self) -> int:
        self._must_answer()
        return len(self.rows)

    async def known(self, ids: Collection[UUID]) -> set[UUID]:
        self._must_answer()
        return {row.event_id for row in self.rows} & set(ids)

    async def records(self, *, after: int = 0, limit: int = 1000) -> list[Record]:
        self._must_answer()
        return self.rows[after : after + limit]

    async def claimed_head(self) -> int:
        return len(self.rows)

    async def acquire(self, holder: str, seconds: float) -> int | None:
        self._must_answer()
        if self.now() < self._expires_at and holder != self._holder:
            return None
        self._term += 1
        self._holder = holder
        self._expires_at = self.now() + timedelta(seconds=seconds)
        return self._term

    async def renew(self, term: int, seconds: float) -> bool:
        self._must_answer()
        if not self._live(term):
            return False
        self._expires_at = self.now() + timedelta(seconds=seconds)
        return True

    async def release(self, term: int) -> None:
        self._must_answer()
        if term == self._term:
            self._expires_at = self.now()

    async def append(
        self, envelopes: Sequence[Envelope], *, term: int, expected_version: int
    ) -> list[Envelope]:
        self._must_answer()
        ids = distinct_ids(envelopes)
        if not ids:
            return []
        known = {row.event_id: row for row in self.rows}
        if all(event_id in known for event_id in ids):
            return [envelope_of(known[event_id]) for event_id in ids]
        if any(event_id in known for event_id in ids):
            raise WrongVersionError("some of these events are recorded already, others are not")
        if not self._live(term):
            raise LeaseLostError(f"term {term} is over: nothing was appended")
        stream = stream_id(envelopes[0].event.workspace)
        version = sum(row.stream_id == stream for row in self.rows)
        if version != expected_version:
            raise WrongVersionError(f"{stream} is at version {version}, not {expected_version}")
        records = chain(
            envelopes,
            head=len(self.rows),
            head_hash=self.rows[-1].hash if self.rows else GENESIS,
            version=version,
            term=term,
            at=self.now(),
        )
        self.rows.extend(records)
        return [envelope_of(record) for record in records]

    async def cursor(self) -> int:
        self._must_answer()
        return self._cursor

    async def advance(self, position: int, *, term: int) -> None:
        self._must_answer()
        if not self._live(term):
            raise LeaseLostError(f"term {term} is over: the relay's cursor stays")
        self._cursor = max(self._cursor, position)

    def _live(self, term: int) -> bool:
        return term == self._term and self.now() < self._expires_at

    def _must_answer(self) -> None:
        if not self.answering:
            raise LogUnknownError("the event log did not answer: it was told to be silent")
