"""Everything the sync service can say."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from shared.events.base import Event
from shared.machines import MachineId


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncCompleted(Event):
    """A new generation is sealed and verified on the standby.

    ``source`` is the machine whose tree it is a copy of (the standby itself while it serves).
    ``sequence`` orders generations within their epoch; ``seal`` echoes the seal that the
    assignment asked for, so that recovery knows what it covers. ``standby`` is the machine that
    holds it (None in events of older versions).
    """

    type: ClassVar[str] = "SyncCompleted"

    generation: str
    sequence: int
    source: MachineId
    files: int
    bytes: int
    bytes_changed: int
    manifest_sha256: str
    seconds: float
    completed_at: datetime
    taken_at: datetime
    seal: int = 0
    files_changing: int = 0
    standby: MachineId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfirmed(Event):
    """The newest generation was compared with its source and is still all there is.

    Said now and then, not at each sync: it is what tells an idle workspace from a stale copy.
    """

    type: ClassVar[str] = "GenerationConfirmed"

    generation: str
    source: MachineId
    taken_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncFailed(Event):
    """A sync did not end in a sealed generation; the last one is untouched."""

    type: ClassVar[str] = "SyncFailed"

    source: MachineId
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationHeld(Event):
    """The source shrank so much that we keep the copy and ask a person.

    Nothing was sealed; ``accept`` lets the next sync through.
    """

    type: ClassVar[str] = "GenerationHeld"

    source: MachineId
    reason: str
    files_before: int
    files_now: int
    bytes_before: int
    bytes_now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreProgressed(Event):
    """A restore is under way: said at each quarter, not each second."""

    type: ClassVar[str] = "RestoreProgressed"

    machine: MachineId
    attempt: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreDone(Event):
    """A generation is on the new GPU, in place, and equal to its manifest by hash.

    ``round`` counts the passes of one attempt. ``final`` is true for the pass that ran while
    the standby was frozen: nothing can have been written after it.
    """

    type: ClassVar[str] = "RestoreDone"

    machine: MachineId
    attempt: int
    round: int
    final: bool
    generation: str
    files: int
    bytes: int
    bytes_copied: int
    manifest_sha256: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFailed(Event):
    """A pass of a restore failed. ``candidate_lost`` means that the new GPU is to blame."""

    type: ClassVar[str] = "RestoreFailed"

    machine: MachineId
    attempt: int
    round: int
    reason: str
    candidate_lost: bool = False
    hint: str = ""
