"""The log as a service meets it: slow, silent for a while, and with commit answers that get lost.

Under it is the log in memory, with its leases, versions and hash chain.
"""

from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from lab.clock import CURRENT
from lab.wire import Wire, at_once
from shared.envelope import Envelope
from shared.eventlog.canonical import Record
from shared.eventlog.memory import MemoryLog
from shared.eventlog.port import Batch, LogUnknownError, stream_id
from shared.machines import WorkspaceName

T = TypeVar("T")

SILENCE_SECONDS = 2.0
"""How long a statement waits for a database that does not answer."""

Appended = Callable[[str, Sequence[Envelope]], None]


@dataclass(slots=True)
class Truth(MemoryLog):
    """What is recorded. Each of the guards of an append may be taken away."""

    lease_checked: bool = True
    version_checked: bool = True

    async def acquire(self, holder: str, seconds: float) -> int | None:
        if not self.lease_checked:
            self._expires_at = self.now()  # whoever asks gets it
        return await MemoryLog.acquire(self, holder, seconds)

    async def renew(self, term: int, seconds: float) -> bool:
        return not self.lease_checked or await MemoryLog.renew(self, term, seconds)

    async def append_all(self, batches: Sequence[Batch], *, term: int) -> list[Envelope]:
        if not self.version_checked:
            ends = {stream: len(positions) for stream, positions in self._streams.items()}
            batches = [self._moved(batch, ends) for batch in batches]
        return await MemoryLog.append_all(self, batches, term=term)

    def _moved(self, batch: Batch, ends: dict[str, int]) -> Batch:
        """What was decided on an older state, put behind what came since."""
        stream = stream_id(batch.envelopes[0].event.workspace)
        version = ends.get(stream, 0)
        ends[stream] = version + len(batch.envelopes)
        return replace(batch, expected_version=version)

    def _live(self, term: int) -> bool:
        return not self.lease_checked or MemoryLog._live(self, term)


class Book:
    """Implements the log's port. ``silent`` and ``slow`` (seconds a call) may be set at any time.

    ``answers_lost`` is the share of appends whose answer never comes; half of those never arrive.
    ``on_append`` is called with the name of the process that appended, in the world.
    """

    def __init__(
        self, truth: Truth, chance: Random, *, on_append: Appended = lambda _, __: None
    ) -> None:
        self.truth = truth
        self.silent = False
        self.slow = 0.0
        self.answers_lost = 0.0
        self._chance = chance
        self._wire = Wire(chance, latency=0.02)
        self._on_append = on_append

    # --- reading

    async def read(self, *, after: int = 0, limit: int = 1000) -> list[Envelope]:
        return await self._ask(lambda: self.truth.read(after=after, limit=limit))

    async def read_workspace(
        self, workspace: WorkspaceName, *, after: int = 0, limit: int = 1000
    ) -> list[Envelope]:
        return await self._ask(
            lambda: self.truth.read_workspace(workspace, after=after, limit=limit)
        )

    async def head(self) -> int:
        return await self._ask(self.truth.head)

    async def known(self, ids: Collection[UUID]) -> set[UUID]:
        return await self._ask(lambda: self.truth.known(ids))

    async def cursor(self) -> int:
        return await self._ask(self.truth.cursor)

    async def records(self, *, after: int = 0, limit: int = 1000) -> list[Record]:
        return await self._ask(lambda: self.truth.records(after=after, limit=limit))

    async def claimed_head(self) -> int:
        return await self._ask(self.truth.claimed_head)

    # --- writing

    async def acquire(self, holder: str, seconds: float) -> int | None:
        return await self._ask(lambda: self.truth.acquire(holder, seconds))

    async def renew(self, term: int, seconds: float) -> bool:
        return await self._ask(lambda: self.truth.renew(term, seconds))

    async def release(self, term: int) -> None:
        await self._ask(lambda: self.truth.release(term))

    async def append(
        self, envelopes: Sequence[Envelope], *, term: int, expected_version: int
    ) -> list[Envelope]:
        batch = Batch(envelopes=envelopes, expected_version=expected_version)
        return await self.append_all([batch], term=term)

    async def append_all(self, batches: Sequence[Batch], *, term: int) -> list[Envelope]:
        process = CURRENT.get()
        who = process.name if process else "nobody"

        def append() -> list[Envelope]:
            head = len(self.truth.rows)
            recorded = at_once(self.truth.append_all(batches, term=term))
            if len(self.truth.rows) > head:
                self._on_append(who, recorded)
            return recorded

        if self.answers_lost and self._chance.random() < self.answers_lost:
            lost = LogUnknownError("the connection broke during the commit")
            arrives = self._chance.random() < 0.5
            effect = append if arrives else (lambda: [])
            return await self._wire.call(effect, lost=lost, patience=SILENCE_SECONDS)
        await self._answering()
        return await self._wire.call(append, takes=self._takes())

    async def advance(self, position: int, *, term: int) -> None:
        await self._ask(lambda: self.truth.advance(position, term=term))

    # --- trouble

    async def _ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await self._answering()
        return await self._wire.call(lambda: at_once(call()), takes=self._takes())

    def _takes(self) -> float:
        return self._chance.random() * self.slow if self.slow else 0.0

    async def _answering(self) -> None:
        if self.silent:
            error = LogUnknownError("the event log does not answer")
            await self._wire.nothing(error, after=SILENCE_SECONDS)
