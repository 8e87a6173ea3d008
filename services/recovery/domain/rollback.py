"""Going back: which copy a person means, and whether the GPU is given up for it.

What was spoilt on the GPU is copied like any other change, so the newest copy is no help. The copy
is looked for before anything is given up: a failover that then finds none would have cost the GPU.
"""

from collections.abc import Sequence
from datetime import datetime

from services.recovery.domain.decider import failover_limitation
from services.recovery.domain.effects import FindGeneration
from services.recovery.domain.state import State
from services.recovery.domain.world import Copy
from shared.events import Event
from shared.events.recovery import FailoverStarted, RollbackRefused


def chosen(copies: Sequence[Copy], before: datetime) -> Copy | None:
    """The newest whole copy whose data was all read before a moment, if any."""
    fitting = [copy for copy in copies if copy.whole and copy.sealed_at <= before]
    return max(fitting, key=lambda copy: copy.generation, default=None)


def begin(state: State, effect: FindGeneration, copies: Sequence[Copy], now: datetime) -> Event:
    """The failover to the copy that was asked for, or why there is none."""
    wish = effect.rollback
    if reason := unable(state, now):
        return refused(state, reason, "see the state with: dumont status")
    copy = chosen(copies, wish.before)
    if copy is None:
        whole = [copy.sealed_at for copy in copies if copy.whole]
        oldest = f"the oldest is of {_words(min(whole))}" if whole else "none is whole"
        reason = f"the standby holds no copy from before {_words(wish.before)}: {oldest}"
        return refused(state, reason, "ask for a later moment")
    assert state.primary is not None
    return FailoverStarted(
        workspace=state.workspace,
        epoch=state.epoch + 1,
        machine=state.primary.id,
        reason=wish.reason,
        actor=wish.actor,
        generation=copy.generation,
    )


def unable(state: State, now: datetime) -> str | None:
    """Why there can be no failover at all now, None when there can. The copy's age is no reason."""
    return failover_limitation(state, now=now, asked=True, data_loss_allowed=True)


def refused(state: State, reason: str, hint: str) -> Event:
    return RollbackRefused(workspace=state.workspace, epoch=state.epoch, reason=reason, hint=hint)


def _words(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
