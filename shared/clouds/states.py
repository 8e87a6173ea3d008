"""What a cloud says about a machine, in words that are the same for every cloud."""

from dataclasses import dataclass
from enum import StrEnum


class MachineState(StrEnum):
    """UNKNOWN is a third answer: the cloud said something that we cannot place."""

    BOOTING = "booting"
    RUNNING = "running"
    STOPPED = "stopped"  # by the market, by somebody, or by us: its disk is kept and billed
    LOST = "lost"  # the cloud itself has lost touch with it
    FAILED = "failed"  # it never came up, or what ran in it has ended
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Said:
    """A state and the cloud's own words for it, short."""

    state: MachineState
    text: str
