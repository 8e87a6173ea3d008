"""Reading the assignments: all of them at each wake-up, whatever could not be read left out."""

from collections.abc import AsyncIterator

import structlog
from pydantic import ValidationError

from shared import assignments
from shared.assignments import Assignment
from shared.bus.port import Bus, BusError
from shared.patience import BUS, Waits

log = structlog.get_logger()


async def read(bus: Bus, waits: Waits) -> AsyncIterator[list[Assignment]]:
    """Until cancelled. A key that is missing says nothing: a bucket can lose its content.

    The bus wakes us after each trouble, and every few seconds while it lasts.
    """
    patience = waits.patience(BUS)
    async for _ in bus.changes():
        try:
            entries = await bus.entries()
        except BusError as error:
            patience.say(f"assignments not readable: {error}")
            continue
        patience.over()
        yield [found for key, value in entries.items() if (found := _decoded(key, value))]


def _decoded(key: str, value: bytes) -> Assignment | None:
    if key.startswith("_"):  # no workspace's: see assignments.SYSTEM_KEY
        return None
    try:
        return assignments.decode(value)
    except ValidationError as error:
        log.warning("assignment not readable", key=key, problems=error.error_count())
        return None
