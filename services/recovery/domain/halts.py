"""Why a recovery halts: only where people must act. The runbook has a section for each code."""

from enum import StrEnum

from services.recovery.domain.state import State
from shared.events.recovery import RecoveryHalted


class Halt(StrEnum):
    """The code of a halt, for programs and as the name of its section in the runbook."""

    CREDENTIALS = "credentials"
    NO_DATA = "no-data"
    SPENDING = "spending"


def halted(state: State, code: Halt, reason: str, hint: str) -> RecoveryHalted:
    """The event that ends the attempts until a person says otherwise."""
    return RecoveryHalted(
        workspace=state.workspace, epoch=state.epoch, code=code, reason=reason, hint=hint
    )
