"""The shell around the decisions: facts in, what follows in, and the state that results.

Nothing here touches the world. ``listen`` takes what others said, ``conclude`` the outcome of an
effect, ``tick`` the passing of time; all three end in one append to the log, and only what is
written counts.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
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
from shared.eventlog.port import Batch, LogUnknownError, LogWriter, WrongVersionError
from shared.events import SPEAKER, Event
from shared.events.recovery import ProvisionRequested
from shared.events.requests import RequestReceived
from shared.machines import MachineId, WorkspaceName
from shared.patience import EVENT_LOG, Waits
from shared.waiting import News

APPEND_TRIES_MAX = 20
PAGE = 1000
SOURCE = "recovery"
UNDECIDABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What a decision raises on values that nobody thought of. Decisions come before the append: what
raised one changed nothing, and would raise it again each time it is delivered."""
QUIET = {Phase.UNREGISTERED, Phase.SYNCING, Phase.REMOVED}

log = structlog.get_logger()


class ForeignFactError(ValueError):
    """An envelope that its source may not say, or about a workspace that nobody registered."""


class _OutdatedError(Exception):
    """A silence of the log ended since this was found due: it is to be looked at anew."""


@dataclass(frozen=True, slots=True)
class Folded:
    """One workspace as far as the log tells: ``version`` counts the events of its stream."""

    state: State
    version: int = 0
    position: int = 0
    incident: UUID | None = None


Admit = Callable[[Envelope, Folded], bool]
"""Whether a fact is wanted where its workspace stands now. Raises ForeignFactError."""

Heard = Callable[[], Awaitable[None]]
"""Returns when what was said before it was called has been listened to, or cannot be waited for."""


async def _nothing_waits() -> None:
    """For a recovery to which nobody speaks through a bus."""


class Recovery:
    """All workspaces of this installation, folded once and kept with their version.

    ``term`` gives the writer term to append under, and raises when the lease is gone. ``heard`` is
    waited for before any deadline counts as missed.
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
        heard: Heard = _nothing_waits,
        waits: Waits | None = None,
    ) -> None:
        self._log = log
        self._term = term
        self._now = now
        self._new_id = new_id
        self._installation = installation
        self._ports = ports
        self._heard = heard
        self._silences = 0
        self._folded: dict[WorkspaceName, Folded] = {}
        self._one_writer = asyncio.Lock()
        self._changed: list[News] = []
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

    def changes(self) -> News:
        """An event that is set whenever something was recorded; clear it before you look."""
        event = News()
        event.set()
        self._changed.append(event)
        return event

    # --- writing

    async def listen(self, received: Envelope) -> None:
        """Record a fact from another service and what follows. Safe to call twice.

        Raises ForeignFactError, and whatever a decision stumbles over.
        """
        for reason in (await self.listen_all([received])).values():
            raise reason

    async def listen_all(self, received: Sequence[Envelope]) -> dict[UUID, Exception]:
        """Record facts from other services, in order, and what follows, in one append.

        Afterwards all are in the log but those returned, by id, with what speaks against them:
        they hold up nothing else. Safe to call twice.
        """
        try:
            return await self._record(received, admit=self._admit)
        except UNDECIDABLE as error:
            if len(received) == 1:
                return {received[0].id: error}
        # One of them cannot be kept: the others can.
        refused: dict[UUID, Exception] = {}
        for fact in received:
            refused |= await self.listen_all([fact])
        return refused

    def _admit(self, fact: Envelope, folded: Folded) -> bool:
        if SPEAKER.get(fact.event.type) != fact.source:
            raise ForeignFactError(f"{fact.source} may not say {fact.event.type}")
        if not folded.version and not isinstance(fact.event, RequestReceived):
            raise ForeignFactError(f"no workspace {fact.event.workspace!r} is registered")
        return True

    async def conclude(self, effect: Effect, outcomes: Sequence[Event]) -> None:
        """Record the outcome of an effect, unless the state no longer owes that effect."""
        for event in outcomes:
            await self._say(event, still_wanted=lambda state: effect in pending(state))

    async def observe(self, event: Event) -> None:
        """Record something that recovery saw by itself."""
        await self._say(event, still_wanted=lambda state: True)

    async def tick(self) -> None:
        """Record every deadline and wait that is over.

        While this process, the bus or the log was away, the fact that met a deadline may have
        waited where nobody read it. So what was said is heard first, each time something seems
        due: that needs no knowledge of what was away, or when. If a silence of the log ended since,
        the next tick asks again: what it held up may be the fact.
        """
        if not any(self._due(workspace) for workspace in self._folded):
            return
        silences = self._silences
        await self._heard()
        with suppress(_OutdatedError):
            for workspace in list(self._folded):
                for event in self._due(workspace):
                    await self._say(event, still_wanted=self._still_due(event, silences))

    def _due(self, workspace: WorkspaceName) -> Sequence[Event]:
        return deadlines.due(self.state(workspace), self._now())

    def _still_due(self, event: Event, silences: int) -> Callable[[State], bool]:
        def still_due(state: State) -> bool:
            if self._silences != silences:
                raise _OutdatedError
            again = deadlines.due(state, self._now())
            return any(type(event) is type(other) for other in again)

        return still_due

    async def _say(self, event: Event, *, still_wanted: Callable[[State], bool]) -> None:
        envelope = Envelope(id=self._new_id(), source=SOURCE, time=self._now(), event=event)
        refused = await self._record([envelope], admit=lambda _, now: still_wanted(now.state))
        for reason in refused.values():
            raise reason

    async def _record(self, facts: Sequence[Envelope], *, admit: Admit) -> dict[UUID, Exception]:
        async with self._one_writer:
            try:
                refused = await self._appended(facts, admit)
            except _OutdatedError:
                raise  # nothing was written: nobody knows yet whether the log takes anything again
            except BaseException:
                self._patience.over()
                raise
            self._patience.over()
            return refused

    async def _appended(self, facts: Sequence[Envelope], admit: Admit) -> dict[UUID, Exception]:
        workspaces = {fact.event.workspace: None for fact in facts}  # a set that keeps its order
        conflicts = 0
        while conflicts < APPEND_TRIES_MAX:
            try:
                known = await self._log.known({fact.id for fact in facts})
                for fact in facts:
                    if fact.id in known:
                        await self._catch_up(fact.event.workspace)
                new = [fact for fact in facts if fact.id not in known]
                batches, refused = self._decided(new, admit)
                recorded = await self._append(batches)
            except WrongVersionError as error:
                log.warning("somebody else wrote", reason=str(error))
                conflicts += 1
                await self._until_caught_up(workspaces)
                continue
            except LogUnknownError as error:
                # Our own append may have happened: the log knows, once it answers. One that can
                # be read but not written to (read-only, its disk full) is waited for as well.
                await self._patience.wait(str(error))
                await self._until_caught_up(workspaces)
                self._silences += 1
                continue
            for envelope in recorded:
                self._take(envelope)
                if isinstance(envelope.event, ProvisionRequested):
                    self._intended.add(envelope.event.label)
            self._tell()
            return refused
        named = ", ".join(workspaces)
        raise WrongVersionError(f"workspace {named}: gave up after {APPEND_TRIES_MAX} tries")

    def _decided(
        self, facts: Sequence[Envelope], admit: Admit
    ) -> tuple[list[Batch], dict[UUID, Exception]]:
        """What is to be written of these facts, each decided on the state that the last one leaves.

        With it the facts that must not or cannot be recorded, by id, and why.
        """
        draft = dict(self._folded)
        batches: list[Batch] = []
        refused: dict[UUID, Exception] = {}
        for fact in {fact.id: fact for fact in facts}.values():
            folded = draft.get(fact.event.workspace) or _unheard_of(fact.event.workspace)
            try:
                if not admit(fact, folded):
                    continue
                written, after = self._with_what_follows(folded, fact, _free(self._ports, draft))
            except UNDECIDABLE as error:
                refused[fact.id] = error
                continue
            batches.append(Batch(envelopes=written, expected_version=folded.version))
            draft[fact.event.workspace] = after
        return batches, refused

    def _with_what_follows(
        self, folded: Folded, fact: Envelope, free_port: int | None
    ) -> tuple[list[Envelope], Folded]:
        """The fact, what is decided on it, what on that, and so on; and what it all leads to."""
        correlation = incident.opened(folded.incident, fact)
        first = replace(fact, correlation=fact.correlation or correlation)
        context = Context(now=self._now(), installation=self._installation, free_port=free_port)
        written: list[Envelope] = []
        queue = deque([first])
        while queue:
            envelope = queue.popleft()
            written.append(envelope)
            folded = _then(folded, envelope)
            for event in decider.decide(folded.state, envelope.event, context):
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
        return written, folded

    async def _append(self, batches: Sequence[Batch]) -> list[Envelope]:
        if not batches:
            return []
        _pass("append.before", [envelope for batch in batches for envelope in batch.envelopes])
        if len(batches) == 1:
            recorded = await self._log.append(
                batches[0].envelopes,
                term=self._term(),
                expected_version=batches[0].expected_version,
            )
        else:
            recorded = await self._log.append_all(batches, term=self._term())
        _pass("append.after", recorded)
        return recorded

    async def _until_caught_up(self, workspaces: Iterable[WorkspaceName]) -> None:
        """As long as the lease is ours. Raises LeaseLostError."""
        for workspace in workspaces:
            while True:
                self._term()
                try:
                    await self._catch_up(workspace)
                except LogUnknownError as error:
                    await self._patience.wait(str(error))
                else:
                    break

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
        if (envelope.position or 0) > folded.position:
            self._folded[workspace] = _then(folded, envelope)

    def _get(self, workspace: WorkspaceName) -> Folded:
        return self._folded.get(workspace) or _unheard_of(workspace)

    def _tell(self) -> None:
        for event in self._changed:
            event.set()


def _unheard_of(workspace: WorkspaceName) -> Folded:
    return Folded(State(workspace=workspace))


def _then(folded: Folded, envelope: Envelope) -> Folded:
    """One event later. An event that is not recorded yet has no position of its own."""
    state = evolve(folded.state, envelope.event)
    return Folded(
        state=state,
        version=folded.version + 1,
        position=envelope.position or folded.position,
        incident=incident.after(folded.incident, envelope, under_way=state.phase not in QUIET),
    )


def _free(ports: Sequence[int], folded: Mapping[WorkspaceName, Folded]) -> int | None:
    """The first port that no workspace holds."""
    held = {
        each.state.endpoint_port
        for each in folded.values()
        if each.state.phase is not Phase.REMOVED
    }
    return next((port for port in ports if port not in held), None)


def _pass(place: str, envelopes: Sequence[Envelope]) -> None:
    for envelope in envelopes:
        failpoints.reach(place, envelope.event.type)
