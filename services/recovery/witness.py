"""Is this log the newest that there was? What was told on the bus remembers how far it once went.

A log that was restored from a copy, or a database that failed over to a replica which lagged, has
forgotten decisions. To act on it would be to use an epoch twice, to lead people to a machine that
is gone and to destroy the one that is not. So recovery asks before it acts, and refuses.
"""

import structlog
from pydantic import ValidationError

from shared import assignments
from shared.bus.port import Backbone, BusError
from shared.eventlog.port import LogOlderError, LogReader, LogUnknownError
from shared.patience import BUS, EVENT_LOG, Waits
from shared.subjects import STREAM_EVENTS

NEWER_LOG = "an event log that is not an old copy"
"""What a recovery that refuses to act waits for."""

SILENCES_MAX = 5
"""So many questions without an answer of the bus, then recovery acts on the log that it has."""

log = structlog.get_logger()


async def until_newest(reader: LogReader, bus: Backbone, waits: Waits) -> None:
    """Return when the log is as new as what was told; refuse in the open until then.

    A bus that does not say is waited for, but not for ever: the relay looks again as soon as it
    does.
    """
    newer = waits.patience(NEWER_LOG, first=1.0, most=5.0)
    log_answers, bus_answers = waits.patience(EVENT_LOG), waits.patience(BUS)
    silences = 0
    while silences < SILENCES_MAX:
        try:
            await confirm_newest(reader, bus)
            break
        except LogOlderError as error:
            log.error("refuses to act", reason=str(error))
            await newer.wait(str(error))
        except LogUnknownError as error:
            await log_answers.wait(str(error))
        except BusError as error:
            silences += 1
            await bus_answers.wait(str(error))
    for patience in (newer, log_answers, bus_answers):
        patience.over()


async def confirm_newest(reader: LogReader, bus: Backbone) -> None:
    """Raises LogOlderError, and BusError or LogUnknownError when that cannot be known."""
    told = await newest_told(bus)
    # Asked in this order: what was told was recorded before.
    head = await reader.head()
    if told > head:
        raise LogOlderError(
            f"position {told} was told on the bus and the log ends at {head}: it is an old copy. "
            'Nothing is done until it is as new again: see "The log is an old copy" in the runbook'
        )


async def newest_told(bus: Backbone) -> int:
    """The last position that was heard of on the bus, 0 when it remembers none.

    Makes streams that are missing. Raises BusError.
    """
    await bus.ensure_streams()
    state = await bus.stream_state(STREAM_EVENTS)
    assigned = [_position(key, value) for key, value in (await bus.entries()).items()]
    return max([state.last_position or 0 if state else 0, *assigned])


def _position(key: str, value: bytes) -> int:
    if key.startswith("_"):
        return 0
    try:
        return assignments.decode(value).position
    except ValidationError:
        return 0
