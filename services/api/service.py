"""The shell: follow the log into the board, put requests into the inbox, await their record.

Nothing here decides. A request is a fact that recovery answers in the log; the api shows what the
log says, and when it cannot know it says so.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid5

from pydantic import ValidationError

from services.api.domain.board import Board
from services.api.domain.operations import Operation, asked
from services.api.ports import Bus, BusError, LogReader, LogUnknownError
from shared import assignments, subjects
from shared.assignments import System
from shared.clock import NewId, Now
from shared.envelope import Envelope
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName
from shared.patience import EVENT_LOG, Waits
from shared.waiting import News

PAGE = 1_000
POLL_SECONDS = 1.0
"""The log is read at least this often: the bus only makes it faster."""
RECORDED_WITHIN = 3.0
"""How long a request is awaited in the log before it is answered as taken but not yet recorded."""
PUBLISHED_WITHIN = 5.0
UNRECORDED_KEPT = 1_000
IDEMPOTENCY = UUID("2f0c6a34-6f0e-5d7a-9f6e-0b9a4b7f5c11")
"""The name space in which an Idempotency-Key becomes an event id. Never change it."""


class Follower:
    """Keeps ``board`` up with the log. Reads wake up by the bus and by the clock."""

    def __init__(
        self,
        reader: LogReader,
        *,
        poll_seconds: float = POLL_SECONDS,
        board: Board | None = None,
        waits: Waits | None = None,
    ) -> None:
        self.board = board if board is not None else Board()
        self.caught_up = False
        self.answering = False
        self.closed = False
        self._reader = reader
        self._poll_seconds = poll_seconds
        self._patience = (waits or Waits()).patience(EVENT_LOG)
        self._wake = News()
        self._changed = News()

    async def run(self) -> None:
        """Follow for ever. A log that does not answer is asked again; anything else ends us."""
        while not self.closed:
            try:
                page = await self._reader.read(after=self.board.position, limit=PAGE)
            except LogUnknownError as error:
                self.answering = False
                self._announce()
                await self._patience.wait(str(error))
                continue
            self._patience.over()
            self.answering = True
            for envelope in page:
                self.board.apply(envelope)
            if len(page) < PAGE:
                self.caught_up = True
            self._announce()
            if len(page) < PAGE:
                await self._pause()

    async def wake_on(self, bus: Bus) -> None:
        """Read at once whenever the relay published something."""
        tail = bus.tail(stream=subjects.STREAM_EVENTS, subject=subjects.ALL_EVENTS)
        async for envelope in tail:
            if (envelope.position or 0) > self.board.position:
                self.nudge()

    def nudge(self) -> None:
        """Read the log now, without waiting for the clock."""
        self._wake.set()

    def close(self) -> None:
        """End: whoever waits for a change is let go."""
        self.closed = True
        self.nudge()
        self._announce()

    async def change(self, timeout: float) -> None:
        """Return after the next look at the log, or after ``timeout`` seconds."""
        await self._changed.comes(timeout)

    async def until(self, met: Callable[[Board], bool], timeout: float) -> bool:
        """Wait until the board satisfies ``met``; False when ``timeout`` seconds are not enough."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + timeout
        while not met(self.board):
            left = deadline - clock.time()
            if left <= 0 or self.closed:
                return False
            await self.change(left)
        return True

    async def events(self, *, after: int, limit: int) -> list[Envelope]:
        """Recorded events after a position. Raises LogUnknownError."""
        kept = self.board.recent.after(after, limit)
        if kept is not None:
            return kept
        return await self._reader.read(after=after, limit=limit)

    async def timeline(self, name: WorkspaceName, *, after: int, limit: int) -> list[Envelope]:
        """Recorded events of one workspace after a position. Raises LogUnknownError."""
        kept = self.board.timeline(name, after=after, limit=limit)
        if kept is not None:
            return kept
        return await self._reader.read_workspace(name, after=after, limit=limit)

    async def _pause(self) -> None:
        await self._wake.comes(self._poll_seconds)
        self._wake.clear()

    def _announce(self) -> None:
        changed, self._changed = self._changed, News()
        changed.set()


class NotTakenError(Exception):
    """The bus did not confirm the request. ``sent``: it may have been taken all the same."""

    def __init__(self, identity: UUID, *, sent: bool) -> None:
        super().__init__("the request was not confirmed by the bus")
        self.identity = identity
        self.sent = sent


class KeyReusedError(Exception):
    """The Idempotency-Key belongs to an earlier request for something else."""

    def __init__(self, earlier: Operation) -> None:
        super().__init__("the idempotency key was used for another request")
        self.earlier = earlier


class Requests:
    """Puts requests into the inbox. A repeat under the same key is answered from the log."""

    def __init__(self, bus: Bus, follower: Follower, *, now: Now, new_id: NewId) -> None:
        self._bus = bus
        self._follower = follower
        self._now = now
        self._new_id = new_id
        self._unrecorded: OrderedDict[UUID, Operation] = OrderedDict()

    async def submit(
        self,
        verb: str,
        workspace: WorkspaceName,
        arguments: Mapping[str, Any],
        *,
        actor: str,
        key: str | None,
    ) -> Operation:
        """Ask, and wait a little for the request to be recorded.

        Returns an operation with no ``position`` when it was taken and is not in the log yet.
        Raises NotTakenError, KeyReusedError.
        """
        identity = uuid5(IDEMPOTENCY, f"{actor}\n{key}") if key else self._new_id()
        earlier = self.operation(identity)
        if earlier is not None:
            _demand_same(earlier, verb, workspace, arguments)
            if earlier.position is not None:
                return earlier
            # Taken, and still not in the log: the bus may have lost it. Twice is recorded once.
        view = self._follower.board.workspace(workspace)
        envelope = Envelope(
            id=identity,
            source="api",
            time=self._now(),
            event=RequestReceived(
                workspace=workspace,
                epoch=view.epoch if view else 0,
                verb=verb,
                actor=actor,
                arguments=dict(arguments),
            ),
        )
        await self._publish(envelope)
        self._remember(envelope)
        await self._follower.until(
            lambda board: board.operation(identity) is not None, RECORDED_WITHIN
        )
        operation = self.operation(identity)
        assert operation is not None
        return operation

    def operation(self, identity: UUID) -> Operation | None:
        """What became of a request: from the log, or as we took it while it is not there yet."""
        recorded = self._follower.board.operation(identity)
        if recorded is not None:
            self._unrecorded.pop(identity, None)
            return recorded
        return self._unrecorded.get(identity)

    async def _publish(self, envelope: Envelope) -> None:
        if not self._bus.connected:
            raise NotTakenError(envelope.id, sent=False)
        event = envelope.event
        subject = subjects.inbox("api", event.workspace, event.type)
        try:
            async with asyncio.timeout(PUBLISHED_WITHIN):
                await self._bus.publish(subject, envelope)
        except (BusError, TimeoutError):
            raise NotTakenError(envelope.id, sent=True) from None

    def _remember(self, envelope: Envelope) -> None:
        operation = asked(envelope)
        assert operation is not None
        self._unrecorded[envelope.id] = operation
        while len(self._unrecorded) > UNRECORDED_KEPT:
            self._unrecorded.popitem(last=False)


def _demand_same(
    earlier: Operation, verb: str, workspace: WorkspaceName, arguments: Mapping[str, Any]
) -> None:
    asked_for = (verb, workspace, dict(arguments))
    if (earlier.verb, earlier.workspace, dict(earlier.arguments)) != asked_for:
        raise KeyReusedError(earlier)


async def exported_head(bus: Bus) -> str | None:
    """Where the log ended when recovery last exported it: POSITION:HASH TIME. Raises BusError."""
    value = (await bus.entries()).get(assignments.LOG_HEAD_KEY)
    return value.decode(errors="replace") if value else None


async def installation(bus: Bus) -> System | None:
    """What recovery says of this installation; None when it has not said. Raises BusError."""
    value = (await bus.entries()).get(assignments.SYSTEM_KEY)
    if value is None:
        return None
    try:
        return assignments.decode_system(value)
    except ValidationError:
        return None
