"""What the service needs of the world, and how trouble with it is sorted."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.assignments import Assignment


class DataPlaneError(Exception):
    """A job did not do what was asked; ``code`` is for programs, ``hint`` says what to do."""

    def __init__(self, code: str, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.hint = hint


class OutdatedError(DataPlaneError):
    """The standby is at another epoch than the assignment: a newer one is on its way to us."""


class CandidateLostError(DataPlaneError):
    """The new GPU is to blame: it does not answer, is too small, or refuses."""


class ShrunkError(DataPlaneError):
    """The source lost most of its data: nothing was sealed, a person is asked."""

    def __init__(
        self, reason: str, *, files_before: int, files_now: int, bytes_before: int, bytes_now: int
    ) -> None:
        super().__init__("source-shrank", reason)
        self.files_before = files_before
        self.files_now = files_now
        self.bytes_before = bytes_before
        self.bytes_now = bytes_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """The newest generation after a copy; ``changed`` is whether this copy made it.

    It is the state of the source at ``taken_at``, by the standby's clock. ``seconds`` is how long
    the copy took, ``files_changing`` how many files were written while they were read.
    """

    generation: str
    sequence: int
    files: int
    bytes: int
    bytes_changed: int
    manifest_sha256: str
    seconds: float
    taken_at: datetime
    changed: bool
    files_changing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """A generation that is on the candidate and equal to its manifest by hash."""

    generation: str
    files: int
    bytes: int
    bytes_copied: int
    manifest_sha256: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a push is. Bytes that the candidate already had do not count until the end."""

    bytes_done: int
    bytes_total: int


class DataPlane(Protocol):
    """The standby's store. A call that is cancelled ends its job on the standby, too."""

    async def pull(self, assignment: Assignment) -> Sealed:
        """Copy the primary's tree and seal what changed. Raises DataPlaneError and its kinds."""
        ...

    async def seal(self, assignment: Assignment) -> Sealed:
        """Seal the tree that people work on. Raises DataPlaneError and its kinds."""
        ...

    async def follow(self, assignment: Assignment, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` when the watch begins and whenever something changes on the primary.

        Ends only with an error: DataPlaneError and its kinds.
        """
        ...

    async def push(
        self,
        assignment: Assignment,
        *,
        final: bool,
        bytes_total: int,
        on_progress: Callable[[Progress], None],
    ) -> Pushed:
        """Bring the newest generation to the candidate, and compare it there by hash.

        ``final`` puts it in place. ``bytes_total`` is its size, for the time it may take. Raises
        DataPlaneError and its kinds.
        """
        ...
