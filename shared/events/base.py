"""What every event is."""

from dataclasses import dataclass
from typing import ClassVar

from shared.machines import WorkspaceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact about one workspace. Fields are only ever added, each with a default.

    ``epoch`` is the epoch that the speaker acted under: an answer that carries an older one
    is history, not news.
    """

    type: ClassVar[str]
    version: ClassVar[int] = 1

    workspace: WorkspaceName
    epoch: int
