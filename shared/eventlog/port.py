"""What the product asks of its log. Errors of the database behind it never leave it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from shared.envelope import Envelope
from shared.machines import WorkspaceName


class WrongVersionError(Exception):
    """The stream moved on: read it again and decide anew. Nothing was appended."""


class LeaseLostError(Exception):
    """This term is over or another holds the lease: stop writing. Nothing was appended."""


class LogOlderError(Exception):
    """The log ends before what was recorded in it: it is an old copy. Nothing may be done on it."""


class LogRefusedError(Exception):
    """The log is there and will not have us: the set-up is wrong, trying again is no use."""


class LogUnknownError(Exception):
    """No answer from the log: what was asked may have happened.

    An append is settled by repeating it, or by looking for its event ids.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Events of one workspace in order, decided when its stream had ``expected_version`` events."""

    envelopes: Sequence[Envelope]
    expected_version: int


def stream_id(workspace: WorkspaceName) -> str:
    """The log's name for the stream of a workspace."""
    return f"workspace/{workspace}"


class LogReader(Protocol):
    """Every method raises LogUnknownError when the log does not answer, and LogRefusedError.

    Positions begin at 1, have no gaps, and become visible in order: a reader that goes on after
    the last position it saw never skips an event.
    """

    async def read(self, *, after: int = 0, limit: int = 1000) -> list[Envelope]:
        """Events after a position, in order, each with its position."""
        ...

    async def read_workspace(
        self, workspace: WorkspaceName, *, after: int = 0, limit: int = 1000
    ) -> list[Envelope]:
        """The same for one workspace; ``after`` is a position too."""
        ...

    async def head(self) -> int:
        """The last position; 0 in an empty log."""
        ...

    async def known(self, ids: Collection[UUID]) -> set[UUID]:
        """Which of these events are recorded."""
        ...


class LogWriter(LogReader, Protocol):
    """Appends are serial: one holder of the lease at a time, and its term is checked each time."""

    async def acquire(self, holder: str, seconds: float) -> int | None:
        """A new term for ``seconds``, or None while another holds the lease.

        The same ``holder`` gets a new term at once: a name belongs to one process at a time, and
        its former terms are over.
        """
        ...

    async def renew(self, term: int, seconds: float) -> bool:
        """Hold on for ``seconds`` from now; False when the term is over (then acquire again)."""
        ...

    async def release(self, term: int) -> None:
        """Let go at once; nothing happens when the term is over already."""
        ...

    async def append(
        self, envelopes: Sequence[Envelope], *, term: int, expected_version: int
    ) -> list[Envelope]:
        """Record events of one workspace, all or none; returns them as recorded, with positions.

        ``expected_version`` is how many events its stream has. Events that are all recorded
        already are returned as they are. Raises WrongVersionError, LeaseLostError,
        LogOlderError when the log ends before what this writer has read or written,
        LogUnknownError, and ValueError for events of several workspaces, ids given twice, and
        an event that could not be read back.
        """
        ...

    async def append_all(self, batches: Sequence[Batch], *, term: int) -> list[Envelope]:
        """The same for many batches at once, all or none, in the order given.

        Batches of one workspace follow each other: the next expects what the one before leaves.
        """
        ...

    async def cursor(self) -> int:
        """The position up to which the relay has published."""
        ...

    async def advance(self, position: int, *, term: int) -> None:
        """Move the relay's cursor forward (never back). Raises LeaseLostError."""
        ...
