"""The shell around the decisions: facts in, what follows in, and the state that results.

Nothing here touches the world. ``listen`` takes what others said, ``conclude`` the outcome of an
effect, ``tick`` the passing of time; all three end in one append to the log, and only what is
written counts.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from services.recovery.domain import deadlines, decider, incident
from services.recovery.domain.decider import Context
from services.recovery.domain.effects import Effect
from services.recovery.domain.evolution import evolve
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import Phase, State
from shared import failpoints
from shared.clock import NewId, Now
from shared.envelope import Envelope
from shared.eventlog.port import LogUnknownError, LogWriter, WrongVersionError
from shared.events import SPEAKER, Event
from shared.events.recovery import ProvisionRequested
from shared.events.requests import RequestReceived
from shared.machines import MachineId, WorkspaceName
from shared.patience import EVENT_LOG, Waits

APPEND_TRIES_MAX = 20
PAGE = 1000
SOURCE = "recovery"
QUIET = {Phase.UNREGISTERED, Phase.SYNCING, Phase.REMOVED}

log = structlog.get_logger()


class ForeignFactError(ValueError):
    """An envelope that its source may not say, or about a workspace that nobody registered."""


@dataclass(frozen=True, slots=True)
class Folded:
    """One workspace as far as the log tells: ``version`` counts the events of its stream."""

    state: State
    version: int = 0
    position: int = 0
    incident: UUID | None = None


class Recovery:
    """All workspaces of this installation, folded once and kept with their version.

    ``term`` gives the writer term to append under, and raises when the lease is gone.
    """

    def __init__(
        self,
        log: LogWriter,
        *,
        term: Callable[[], int],
        now: Now,
        new_id: NewId,
        installation: str,
        ports: Sequence[int],
        waits: Waits | None = None,
    ) -> None:
        self._log = log
        self._term = term
        self._now = now
        self._new_id = new_id
        self._installation = installation
        self._ports = ports
        self._folded: dict[WorkspaceName, Folded] = {}
        self._one_writer = asyncio.Lock()
        self._changed: list[asyncio.Event] = []
        self._intended: set[MachineId] = set()
        self._patience = (waits or Waits()).patience(EVENT_LOG)

    # --- reading

    async def load(self) -> None:
        """Fold the whole log: what a start does before anything else. Raises LeaseLostError."""
        after = 0
        while page := await self._page(after):
            for envelope in page:
                self._take(envelope)
            after = page[-1].position or 0
        self._patience.over()
        self._tell()

    async def _page(self, after: int) -> list[Envelope]:
        while True:
            self._term()
            try:
                return await self._log.read(after=after, limit=PAGE)
            except LogUnknownError as error:
                await self._patience.wait(str(error))

    @property
    def states(self) -> Mapping[WorkspaceName, Folded]:
        return self._folded

    def state(self, workspace: WorkspaceName) -> State:
        return self._folded[workspace].state

    def intended_here(self, label: MachineId) -> bool:
        """Whether this very process wrote that it will rent under ``label``.

        If not, a process before it may have rented already and died before it could say so.
        """
        return label in self._intended

    def changes(self) -> asyncio.Event:
        """An event that is set whenever something was recorded; clear it before you look."""
        event = asyncio.Event()
        event.set()
        self._changed.append(event)
        return event

    # --- writing

    async def listen(self, received: Envelope) -> None:
        """Record a fact from another service and what follows. Safe to call twice.

        Raises ForeignFactError.
        """
        if SPEAKER.get(received.event.type) != received.source:
            raise ForeignFactError(f"{received.source} may not say {received.event.type}")
        known = received.event.workspace in self._folded
        if not known and not isinstance(received.event, RequestReceived):
            raise ForeignFactError(f"no workspace {received.event.workspace!r} is registered")
        await self._record(received, still_wanted=lambda state: True)

    async def conclude(self, effect: Effect, outcomes: Sequence[Event]) -> None:
        """Record the outcome of an effect, unless the state no longer owes that effect."""
        for event in outcomes:
            await self._say(event, still_wanted=lambda state: effect in pending(state))

    async def observe(self, event: Event) -> None:
        """Record something that recovery saw by itself."""
        await self._say(event, still_wanted=lambda state: True)

    async def tick(self) -> None:
        """Record every deadline and wait that is over."""
        for workspace in list(self._folded):
            for event in deadlines.due(self.state(workspace), self._now()):
                await self._say(event, still_wanted=self._still_due(event))

    def _still_due(self, event: Event) -> Callable[[State], bool]:
        def still_due(state: State) -> bool:
            again = deadlines.due(state, self._now())
            return any(type(event) is type(other) for other in again)

        return still_due

    async def _say(self, event: Event, *, still_wanted: Callable[[State], bool]) -> None:
        envelope = Envelope(id=self._new_id(), source=SOURCE, time=self._now(), event=event)
        await self._record(envelope, still_wanted=still_wanted)

    async def _record(self, fact: Envelope, *, still_wanted: Callable[[State], bool]) -> None:
        async with self._one_writer:
            try:
                await self._appended(fact, still_wanted)
            finally:
                self._patience.over()

    async def _appended(self, fact: Envelope, still_wanted: Callable[[State], bool]) -> None:
        workspace = fact.event.workspace
        conflicts = 0
        while conflicts < APPEND_TRIES_MAX:
            try:
                if await self._log.known({fact.id}):
                    return await self._catch_up(workspace)
                folded = self._get(workspace)
                if not still_wanted(folded.state):
                    return None
                written = self._with_what_follows(folded, fact)
                _pass("append.before", written)
                recorded = await self._log.append(
                    written,
                    term=self._term(),
                    expected_version=folded.version,
                )
            except WrongVersionError as error:
                log.warning("somebody else wrote", workspace=workspace, reason=str(error))
                conflicts += 1
                await self._until_caught_up(workspace)
                continue
            except LogUnknownError as error:
                # Our own append may have happened: the log knows, once it answers. One that can
                # be read but not written to (read-only, its disk full) is waited for as well.
                await self._patience.wait(str(error))
                await self._until_caught_up(workspace)
                continue
            _pass("append.after", recorded)
            for envelope in recorded:
                self._take(envelope)
                if isinstance(envelope.event, ProvisionRequested):
                    self._intended.add(envelope.event.label)
            self._tell()
            return None
        raise WrongVersionError(f"workspace {workspace}: gave up after {APPEND_TRIES_MAX} tries")

    def _with_what_follows(self, folded: Folded, fact: Envelope) -> list[Envelope]:
        """The fact, what is decided on it, what is decided on that, and so on."""
        correlation = incident.opened(folded.incident, fact)
        first = replace(fact, correlation=fact.correlation or correlation)
        context = Context(
            now=self._now(), installation=self._installation, free_port=self._free_port()
        )
        state = folded.state
        written: list[Envelope] = []
        queue = deque([first])
        while queue:
            envelope = queue.popleft()
            written.append(envelope)
            state = evolve(state, envelope.event)
            for event in decider.decide(state, envelope.event, context):
                queue.append(
                    Envelope(
                        id=self._new_id(),
                        source=SOURCE,
                        time=context.now,
                        event=event,
                        correlation=first.correlation,
                        causation=envelope.id,
                    )
                )
        return written

    async def _until_caught_up(self, workspace: WorkspaceName) -> None:
        """As long as the lease is ours. Raises LeaseLostError."""
        while True:
            self._term()
            try:
                await self._catch_up(workspace)
            except LogUnknownError as error:
                await self._patience.wait(str(error))
            else:
                return

    async def _catch_up(self, workspace: WorkspaceName) -> None:
        while page := await self._log.read_workspace(
            workspace, after=self._get(workspace).position, limit=PAGE
        ):
            for envelope in page:
                self._take(envelope)
        self._tell()

    def _take(self, envelope: Envelope) -> None:
        workspace = envelope.event.workspace
        folded = self._get(workspace)
        position = envelope.position or 0
        if position <= folded.position:
            return
        state = evolve(folded.state, envelope.event)
        self._folded[workspace] = Folded(
            state=state,
            version=folded.version + 1,
            position=position,
            incident=incident.after(folded.incident, envelope, under_way=state.phase not in QUIET),
        )

    def _get(self, workspace: WorkspaceName) -> Folded:
        return self._folded.get(workspace) or Folded(State(workspace=workspace))

    def _free_port(self) -> int | None:
        held = {
            folded.state.endpoint_port
            for folded in self._folded.values()
            if folded.state.phase is not Phase.REMOVED
        }
        return next((port for port in self._ports if port not in held), None)

    def _tell(self) -> None:
        for event in self._changed:
            event.set()


def _pass(place: str, envelopes: Sequence[Envelope]) -> None:
    for envelope in envelopes:
        failpoints.reach(place, envelope.event.type)
