"""``python -m services.recovery mend``: bring an old copy of the log up to what was told of it.

For the day when the newest log is lost for good: its relay published every event, in order and with
its position, and the bus keeps them for two weeks. A person decides that, never recovery itself: a
log that lacks what the bus holds may also be the log of another installation.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from services.recovery.witness import newest_told
from shared.bus.port import Backbone
from shared.envelope import Envelope
from shared.eventlog.port import LogWriter
from shared.machines import WorkspaceName
from shared.subjects import ALL_EVENTS, STREAM_EVENTS

HOLDER = "mend"
LEASE_SECONDS = 30.0
PAGE = 1000

log = structlog.get_logger()


class CannotMendError(Exception):
    """The bus does not hold what the log lacks, or somebody writes the log."""


async def mend(writer: LogWriter, bus: Backbone) -> int:
    """Append what the log lacks, as it was told; how many events that was.

    May be repeated. Raises CannotMendError, BusError, LogUnknownError, LeaseLostError.
    """
    told = await newest_told(bus)
    held = await bus.stream_state(STREAM_EVENTS)
    last = (held.last_position if held else None) or 0
    head = await writer.head()
    if last < told and head < told:
        raise CannotMendError(
            f"position {told} was assigned, the stream ends at {last}: what is between is lost. To "
            "go on without it, delete the bucket DUMONT_STATE as NATS admin and try again"
        )
    if head >= last:
        return 0
    term = await _lease(writer)
    versions: dict[WorkspaceName, int] = {}
    try:
        async with aclosing(_missing(bus, head, last)) as missing:
            async for envelope in missing:
                await writer.renew(term, LEASE_SECONDS)
                await _append(writer, envelope, term, versions)
    finally:
        await writer.release(term)
    return last - head


async def _lease(writer: LogWriter) -> int:
    """Wait until nobody else writes: a recovery that refuses to act does not."""
    for _ in range(2 * int(LEASE_SECONDS)):
        if (term := await writer.acquire(HOLDER, LEASE_SECONDS)) is not None:
            return term
        await asyncio.sleep(1.0)
    raise CannotMendError(
        "a recovery holds the lease and writes the log: end every one, then try again"
    )


async def _missing(bus: Backbone, head: int, last: int) -> AsyncGenerator[Envelope]:
    """The events after ``head`` up to ``last``, without a gap. Raises CannotMendError."""
    tail = bus.tail(stream=STREAM_EVENTS, subject=ALL_EVENTS, after_position=head)
    async for envelope in tail:
        if envelope.position != head + 1:
            raise CannotMendError(
                f"the log lacks position {head + 1}, and the bus holds {envelope.position} next"
            )
        head = envelope.position
        yield envelope
        if head == last:
            return


async def _append(
    writer: LogWriter, envelope: Envelope, term: int, versions: dict[WorkspaceName, int]
) -> None:
    workspace = envelope.event.workspace
    if workspace not in versions:
        versions[workspace] = await _version(writer, workspace)
    (recorded,) = await writer.append([envelope], term=term, expected_version=versions[workspace])
    assert recorded.position == envelope.position, "appends are serial, and began at the head"
    versions[workspace] += 1
    log.info("mended", position=recorded.position, type=envelope.event.type)


async def _version(writer: LogWriter, workspace: WorkspaceName) -> int:
    """How many events the log has of a workspace."""
    count = after = 0
    while page := await writer.read_workspace(workspace, after=after, limit=PAGE):
        count += len(page)
        after = page[-1].position or 0
    return count
