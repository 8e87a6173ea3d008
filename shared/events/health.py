"""Everything the health service can say. Hints: recovery looks for itself before it acts."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from shared.events.base import Event
from shared.machines import MachineId, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFailed(Event):
    """One check of a host failed; ``failures`` in a row so far."""

    type: ClassVar[str] = "HealthFailed"

    machine: MachineId
    role: Role
    failures: int
    threshold: int
    reason: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdReached(Event):
    """So many checks in a row failed that the host counts as dead.

    ``positive`` is true when the provider itself said that the machine is gone, and false when
    the verdict rests on silence alone. Repeated while the condition lasts; ``seen_at`` is when
    the check of this one ended.
    """

    type: ClassVar[str] = "ThresholdReached"

    machine: MachineId
    role: Role
    failures: int
    threshold: int
    reason: str
    positive: bool
    evidence: tuple[str, ...] = ()
    seen_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthUnknown(Event):
    """So many checks in a row could not tell whether a host lives: our own network, login or
    process is in doubt. It is no failure and nothing is given up for it; people are told once.
    """

    type: ClassVar[str] = "HealthUnknown"

    machine: MachineId
    role: Role
    checks: int
    reason: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRestored(Event):
    """A host that had failed checks, or could not be judged, answers again."""

    type: ClassVar[str] = "HealthRestored"

    machine: MachineId
    role: Role
    failures_before: int
