"""The log inside one process, for unit tests: same promises, nothing kept."""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from shared.clock import Now, now
from shared.envelope import Envelope
from shared.eventlog.canonical import (
    GENESIS,
    Record,
    distinct_ids,
    encoded,
    envelope_of,
    expected_versions,
    records,
)
from shared.eventlog.port import (
    Batch,
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
    _recorded: list[Envelope] = field(default_factory=list)
    _by_id: dict[UUID, Envelope] = field(default_factory=dict)
    _streams: dict[str, list[int]] = field(default_factory=dict)
    _term: int = 0
    _holder: str = ""
    _expires_at: datetime = LONG_AGO
    _cursor: int = 0

    async def read(self, *, after: int = 0, limit: int = 1000) -> list[Envelope]:
        self._must_answer()
        return self._recorded[after : after + limit]

    async def read_workspace(
        self, workspace: WorkspaceName, *, after: int = 0, limit: int = 1000
    ) -> list[Envelope]:
        self._must_answer()
        positions = self._streams.get(stream_id(workspace), [])
        first = bisect_right(positions, after)
        return [self._recorded[position - 1] for position in positions[first : first + limit]]

    async def head(self) -> int:
        self._must_answer()
        return len(self.rows)

    async def known(self, ids: Collection[UUID]) -> set[UUID]:
        self._must_answer()
        return self._by_id.keys() & set(ids)

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
        batch = Batch(envelopes=envelopes, expected_version=expected_version)
        return await self.append_all([batch], term=term)

    async def append_all(self, batches: Sequence[Batch], *, term: int) -> list[Envelope]:
        self._must_answer()
        ids = distinct_ids(batches)
        if not ids:
            return []
        if all(event_id in self._by_id for event_id in ids):
            return [self._by_id[event_id] for event_id in ids]
        if any(event_id in self._by_id for event_id in ids):
            raise WrongVersionError("some of these events are recorded already, others are not")
        if not self._live(term):
            raise LeaseLostError(f"term {term} is over: nothing was appended")
        events = encoded(batches, term=term)
        for stream, expected in expected_versions(events).items():
            version = len(self._streams.get(stream, ()))
            if version != expected:
                raise WrongVersionError(f"{stream} is at version {version}, not {expected}")
        head_hash = self.rows[-1].hash if self.rows else GENESIS
        made = records(events, head=len(self.rows), head_hash=head_hash, recorded_at=self.now())
        recorded = [envelope_of(row) for row in made]
        for row, envelope in zip(made, recorded, strict=True):
            self.rows.append(row)
            self._recorded.append(envelope)
            self._by_id[row.event_id] = envelope
            self._streams.setdefault(row.stream_id, []).append(row.position)
        return recorded

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
