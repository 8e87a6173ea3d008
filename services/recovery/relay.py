"""The log on the bus: every event once more, in order, with its position. The log is the outbox.

Where it stands is read from the stream itself; the cursor in the database remembers how far it
once was, so a stream that comes back younger or emptier is noticed and filled again from the log.
Listeners drop what they know by event id.
"""

from collections.abc import Callable

import structlog

from shared import failpoints
from shared.bus.port import Backbone, BusError, StreamState
from shared.eventlog.port import LogOlderError, LogUnknownError, LogWriter
from shared.patience import BUS, EVENT_LOG, Waits
from shared.subjects import STREAM_EVENTS, event
from shared.waiting import News

BATCH = 100

log = structlog.get_logger()


class Relay:
    """``term`` gives the live term and raises LeaseLostError when there is none any more;
    ``changed`` is set when something was appended. ``on_renewed`` is called when streams or bucket
    had to be made anew: what was in the bucket is to be put there again. Every ``poll`` seconds
    without news the relay looks whether the stream still holds what it was given.
    """

    def __init__(
        self,
        log: LogWriter,
        bus: Backbone,
        *,
        term: Callable[[], int],
        changed: News,
        on_renewed: Callable[[], None] = lambda: None,
        poll: float = 1.0,
        waits: Waits | None = None,
    ) -> None:
        self._log = log
        self._bus = bus
        self._term = term
        self._changed = changed
        self._on_renewed = on_renewed
        self._poll = poll
        waits = waits or Waits()
        self._for_bus = waits.patience(BUS)
        self._for_log = waits.patience(EVENT_LOG)
        self._published: int | None = None
        """The last position known to be in the stream, None when that must be looked up."""

    async def run(self) -> None:
        """Publish until cancelled; a lost bus or log is waited for.

        Raises LeaseLostError, and LogOlderError when the stream knows more than the log.
        """
        while True:
            self._changed.clear()
            try:
                published = await self.step()
            except BusError as error:
                self._published = None
                await self._for_bus.wait(str(error))
                continue
            except LogUnknownError as error:
                self._published = None
                await self._for_log.wait(str(error))
                continue
            self._for_bus.over()
            self._for_log.over()
            if published < BATCH:  # that was all, and more is news
                await self._until_news()

    async def step(self) -> int:
        """Publish the next batch; returns how many events it held.

        Raises BusError, LogUnknownError, LogOlderError, LeaseLostError.
        """
        term = self._term()
        published = await self._where_the_stream_stands()
        envelopes = await self._log.read(after=published, limit=BATCH)
        if not envelopes:
            return 0
        await self._log.advance(published, term=term)  # refused when another has taken over
        await self._bus.publish_all(
            [(event(each.event.workspace, each.event.type), each) for each in envelopes]
        )
        failpoints.reach("relay.published")
        self._published = envelopes[-1].position
        await self._log.advance(envelopes[-1].position or 0, term=term)
        return len(envelopes)

    async def _where_the_stream_stands(self) -> int:
        if self._published is not None:
            return self._published
        if await self._bus.ensure_streams():
            log.warning("streams were made anew: publishing again from the log")
            self._on_renewed()
        state = await self._bus.stream_state(STREAM_EVENTS)
        if state is None:
            raise BusError(f"stream {STREAM_EVENTS} went away again")
        self._published = await self._last_published(state)
        return self._published

    async def _last_published(self, state: StreamState) -> int:
        cursor = await self._log.cursor()
        position = state.last_position
        if position is None:
            # Empty because all of it grew too old, or because it never held anything.
            position = cursor if state.last_sequence else 0
        if position < cursor:
            log.warning("the stream is behind: publishing again", stream=position, cursor=cursor)
        # Not by the cursor: in the middle of its work the relay may have moved that of an old copy.
        told = max(position, cursor)
        if told > (head := await self._log.head()):
            raise LogOlderError(f"position {told} was told, the log ends at {head}: an old copy")
        return position

    async def _until_news(self) -> None:
        if not await self._changed.comes(self._poll):
            self._published = None  # a quiet moment: look whether the stream is still ours
