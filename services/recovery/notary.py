"""Exports the head of the log to places that no role of the database reaches.

The bucket on the bus has its own passwords; a file (``DUMONT_HEAD_FILE``) may lie on a disk that
only takes appends, or be carried away. ``dumont log verify --head`` holds the log against them.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from shared.assignments import LOG_HEAD_KEY
from shared.bus.port import Bus, BusError
from shared.clock import Now
from shared.eventlog.canonical import Record
from shared.eventlog.heads import ExportedHead
from shared.eventlog.port import LogUnknownError

log = structlog.get_logger()


class Heads(Protocol):
    """A log that shows its last record."""

    async def head(self) -> int: ...

    async def records(self, *, after: int = 0, limit: int = 1000) -> list[Record]: ...


class Notary:
    """Every ``interval`` seconds. ``may_act`` raises when another recovery writes the log now."""

    def __init__(
        self,
        heads: Heads,
        bus: Bus,
        *,
        file: Path | None,
        interval: float,
        now: Now,
        may_act: Callable[[], object],
    ) -> None:
        self._heads = heads
        self._bus = bus
        self._file = file
        self._interval = interval
        self._now = now
        self._may_act = may_act
        self._written = 0
        """The position of the last line in the file, as far as this process knows."""

    async def run(self) -> None:
        """Until cancelled. Raises LeaseLostError."""
        while True:
            try:
                await self.export()
            except (BusError, LogUnknownError, OSError) as error:
                log.warning("head of the log not exported", reason=str(error))
            await asyncio.sleep(self._interval)

    async def export(self) -> None:
        """Export the head as it is now. Raises BusError, LogUnknownError, OSError."""
        position = await self._heads.head()
        if not position:
            return
        [last] = await self._heads.records(after=position - 1, limit=1)
        self._may_act()
        head = ExportedHead(position=last.position, hash=last.hash, at=self._now())
        if self._file is not None and self._written < position:
            await asyncio.to_thread(_append, self._file, f"{head}\n")
            self._written = position
        # Again although it did not move: the bucket may have been lost.
        await self._bus.put(LOG_HEAD_KEY, str(head).encode())


def _append(file: Path, line: str) -> None:
    with file.open("a") as lines:
        lines.write(line)
        lines.flush()
        os.fsync(lines.fileno())
