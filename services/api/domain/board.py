"""Everything the api knows, folded from the log and bounded: the newest of each, in memory.

The board is a value of the log up to ``position``, so a start may begin from any board that was
kept, not only from the empty one. Older entries than it holds are read from the log on demand.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from uuid import UUID

from services.api.domain import narration, operations, projections, wording
from services.api.domain.operations import Operation
from services.api.domain.views import Generation, Phase, WorkspaceView
from shared.envelope import Envelope
from shared.events.sync import SyncCompleted
from shared.machines import WorkspaceName

KEPT_PER_WORKSPACE = 1_000
"""Timeline entries, and generations, that are kept of each workspace."""
KEPT_EVENTS = 2_000
"""Events of all workspaces that are kept for streams that follow closely."""
KEPT_OPERATIONS = 10_000


class Recent:
    """The newest envelopes of one sequence. ``complete_after``: all later ones are in here."""

    def __init__(self, limit: int) -> None:
        self._kept: deque[Envelope] = deque(maxlen=limit)
        self.complete_after = 0

    def add(self, envelope: Envelope) -> None:
        if len(self._kept) == self._kept.maxlen:
            self.complete_after = self._kept[0].position or 0
        self._kept.append(envelope)

    def after(self, position: int, limit: int) -> list[Envelope] | None:
        """Up to ``limit`` envelopes after ``position``; None when some are no longer held."""
        if position < self.complete_after:
            return None
        found = []
        for envelope in reversed(self._kept):
            if (envelope.position or 0) <= position:
                break
            found.append(envelope)
        return found[: -limit - 1 : -1]


@dataclass(slots=True)
class Entry:
    """One workspace: its state and its recent past."""

    view: WorkspaceView | None = None
    recent: Recent = field(default_factory=lambda: Recent(KEPT_PER_WORKSPACE))
    generations: deque[Generation] = field(default_factory=lambda: deque(maxlen=KEPT_PER_WORKSPACE))
    open_operations: set[UUID] = field(default_factory=set)


class Board:
    """The fold of the whole log up to ``position``; ``apply`` takes it one event further."""

    def __init__(self) -> None:
        self.position = 0
        self.recent = Recent(KEPT_EVENTS)
        self._entries: dict[WorkspaceName, Entry] = {}
        self._operations: OrderedDict[UUID, Operation] = OrderedDict()

    def apply(self, envelope: Envelope) -> None:
        """Take in one recorded event; one that is already in here changes nothing."""
        position = envelope.position
        if position is None or position <= self.position:
            return
        self.position = position
        self.recent.add(envelope)
        entry = self._entries.setdefault(envelope.event.workspace, Entry())
        self._follow_operations(entry, envelope)
        entry.view = projections.evolve(entry.view, envelope)
        entry.recent.add(envelope)
        if isinstance(envelope.event, SyncCompleted):
            entry.generations.append(projections.generation(envelope.event, position))

    def workspaces(self) -> list[WorkspaceView]:
        """All that exist, by name: a removed one stays until its machines were seen to be gone."""
        views = (entry.view for _, entry in sorted(self._entries.items()))
        return [v for v in views if v is not None and (v.phase is not Phase.REMOVED or v.billed)]

    def workspace(self, name: str) -> WorkspaceView | None:
        """One workspace, removed or not; None when there never was one."""
        entry = self._entries.get(WorkspaceName(name))
        return entry.view if entry else None

    def like(self, name: str) -> list[str]:
        """Names of existing workspaces that look like ``name``."""
        return get_close_matches(name, [view.name for view in self.workspaces()], n=3, cutoff=0.5)

    def timeline(self, name: str, *, after: int, limit: int) -> list[Envelope] | None:
        """Recent events of one workspace; None when older ones must be read from the log."""
        entry = self._entries.get(WorkspaceName(name))
        return entry.recent.after(after, limit) if entry else []

    def generations(self, name: str) -> list[Generation]:
        """The newest generations that the log tells of, oldest first."""
        entry = self._entries.get(WorkspaceName(name))
        return list(entry.generations) if entry else []

    def operation(self, identity: UUID) -> Operation | None:
        """What became of a request, None when the log (or this board) does not hold it."""
        return self._operations.get(identity)

    def _follow_operations(self, entry: Entry, envelope: Envelope) -> None:
        for identity in tuple(entry.open_operations):
            self._keep(entry, operations.follow(self._operations[identity], envelope))
        begun = operations.asked(envelope)
        if begun is not None:
            settled = operations.settled(begun, entry.view)
            self._keep(entry, settled)

    def _keep(self, entry: Entry, operation: Operation) -> None:
        self._operations[operation.id] = operation
        if operation.open:
            entry.open_operations.add(operation.id)
        else:
            entry.open_operations.discard(operation.id)
        while len(self._operations) > KEPT_OPERATIONS:
            dropped, gone = self._operations.popitem(last=False)
            self._entries[gone.workspace].open_operations.discard(dropped)


def line(envelope: Envelope) -> dict[str, Any]:
    """One entry of a timeline as JSON values."""
    event = envelope.event
    return {
        "position": envelope.position,
        "id": str(envelope.id),
        "at": wording.iso(envelope.time),
        "event": event.type,
        "text": narration.tell(event),
        "severity": narration.severity(event).value,
        "source": envelope.source,
        "epoch": event.epoch,
        "incident": str(envelope.correlation) if envelope.correlation else None,
        "causation": str(envelope.causation) if envelope.causation else None,
        "evidence": list(narration.evidence(event)),
    }


def phases(views: Iterable[WorkspaceView]) -> Mapping[Phase, int]:
    """How many workspaces are in each phase, those with none included."""
    counted = dict.fromkeys(Phase, 0)
    for view in views:
        counted[view.phase] += 1
    return counted
