"""What machines without a place are owed: who is condemned, and what was seen of it."""

from services.recovery.domain import mortality
from services.recovery.domain.condemned import abandoned, condemn
from services.recovery.domain.halts import Halt
from services.recovery.domain.state import Attempt, Condemned, End, Phase, Serving, State, Step
from shared.changing import replace
from shared.events import Event
from shared.events.recovery import (
    FenceDelayed,
    OrphanDestroyed,
    PrimaryFenced,
    RecoveryCompleted,
    RecoveryHalted,
    ZombieSeen,
)
from shared.machines import Role


def fenced(state: State, event: Event) -> State:
    """What machines without a place are owed, and what was seen of them."""
    match event:
        case PrimaryFenced(how="stopped"):
            kept = tuple(
                replace(c, seen=True) if c.machine == event.machine and c.end is End.STOP else c
                for c in state.condemned
            )
        case FenceDelayed():
            kept = tuple(
                replace(c, off_market=True) if c.provider_id == event.provider_id else c
                for c in state.condemned
            )
        case PrimaryFenced() | OrphanDestroyed():
            kept = tuple(
                c
                for c in state.condemned
                if (c.machine, c.provider_id)
                not in {(event.machine, event.provider_id), (event.machine, "")}
            )
        case ZombieSeen():
            served = any(c.machine == event.machine and not c.orphan for c in state.condemned)
            known = [c for c in state.condemned if c.provider_id == event.provider_id]
            others = (c for c in state.condemned if c.provider_id != event.provider_id)
            kept_alive = any(c.keep for c in known)
            zombie = Condemned(
                machine=event.machine,
                provider=event.provider,
                provider_id=event.provider_id,
                end=End.STOP if kept_alive else End.DESTROY,
                orphan=not served,
                reason=event.reason,
                keep=kept_alive,
                role=Role.STANDBY if any(c.role is Role.STANDBY for c in known) else Role.GPU,
            )
            kept = (*others, zombie)
        case RecoveryCompleted():
            # The salvage window closes: what was only stopped is destroyed now.
            kept = tuple(
                replace(c, end=End.DESTROY, seen=False) if c.end is End.STOP and not c.keep else c
                for c in state.condemned
            )
        case _:
            return state
    return replace(state, condemned=kept)


def attempt_ended(state: State) -> State:
    """This attempt is over: whatever it rented is owed its end."""
    attempt = state.attempt
    condemned = state.condemned
    if attempt.host is not None and attempt.host != state.primary:
        condemned += (
            condemn(attempt.host, End.DESTROY, f"attempt {attempt.number} ended", orphan=True),
        )
    elif attempt.label is not None and attempt.host is None:
        condemned += (
            abandoned(attempt.label, "vast", f"attempt {attempt.number} ended without an answer"),
        )
    frozen = state.step in {Step.FREEZING, Step.LAST_DELTA}
    return replace(
        state,
        condemned=condemned,
        attempt=Attempt(number=attempt.number + 1),
        standby=replace(state.standby, thaw_owed=True) if frozen else state.standby,
    )


def halted(state: State, event: RecoveryHalted) -> State:
    """People must act. Where the only copy is gone, what may still have the data is kept."""
    if event.code == Halt.NO_DATA and state.step is Step.SWITCHING:
        # It was to serve, and stays in its place: what else has the data?
        state = replace(
            state,
            serving=Serving.GPU,
            primary=state.attempt.host,
            primary_ready=True,
            resume_owed=True,
        )
    ended = attempt_ended(state)
    if event.code == Halt.NO_DATA:
        copied = state.attempt.converged or state.attempt.round > 1
        kept = mortality.rescue_kept(ended, state.attempt.host if copied else None)
        ended = replace(ended, condemned=kept)
    return replace(ended, phase=Phase.HALTED, step=Step.NONE, reason=event.reason)


def removed(state: State) -> State:
    given_up = attempt_ended(state)
    condemned = given_up.condemned
    if state.primary is not None and not state.primary_adopted:
        condemned += (condemn(state.primary, End.DESTROY, "the workspace was removed"),)
    standby = state.standby
    if standby.own is None and standby.host is not None:
        condemned += (condemn(standby.host, End.DESTROY, "the workspace was removed"),)
    if standby.own is None and standby.label is not None and standby.missing:
        # The next one may be there already, and not where the last one was.
        condemned += (abandoned(standby.label, "gce", "the workspace was removed"),)
    return replace(
        given_up,
        phase=Phase.REMOVED,
        step=Step.NONE,
        serving=Serving.NOBODY,
        primary=None,
        suspicion=None,
        condemned=tuple(
            c if c.keep else replace(c, end=End.DESTROY, seen=False) for c in condemned
        ),
    )
