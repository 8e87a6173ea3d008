"""What people are told without asking: derived from the log, so that no crash can swallow it.

A notice is owed from the event that calls for it until ``NoticeSent`` is in the log.
"""

from services.recovery.domain.state import Notice, Phase, State
from shared.changing import replace
from shared.events import Event
from shared.events.health import HealthUnknown
from shared.events.recovery import (
    EffectFailing,
    FailoverCompleted,
    FailoverRefused,
    NoticeSent,
    RecoveryCompleted,
    RecoveryHalted,
    SpendLimitReached,
    StandbyLost,
    StandbyRestored,
    StandbyStale,
    WaitScheduled,
)
from shared.events.sync import GenerationHeld
from shared.machines import Role

NOTICES_MAX = 20
"""As many are kept for people who cannot be reached: the newest."""
OWN_EFFECT = "send notice"
"""How ``EffectFailing`` names the sending itself: about that nobody can be told."""


def noticed(before: State, after: State, event: Event) -> State:
    """``after`` with what people are to be told of ``event``, or with what they were told."""
    if isinstance(event, NoticeSent):
        left = tuple(notice for notice in after.notices if notice.number != event.number)
        return replace(after, notices=left)
    told = _told(before, after, event)
    if told is None:
        return after
    number = after.notices_made + 1
    notices = (*after.notices, replace(told, number=number))[-NOTICES_MAX:]
    return replace(after, notices=notices, notices_made=number)


def _told(before: State, after: State, event: Event) -> Notice | None:
    """Only what changed something: an event of another epoch, or said again, is no news."""
    match event:
        case RecoveryHalted() if after.phase is Phase.HALTED and _halted_anew(before, after):
            return _notice("critical", f"recovery halted: {event.reason}", event.hint)
        case FailoverCompleted() if after.phase is not before.phase:
            return _notice("warning", "the GPU was lost; the standby serves at the same address")
        case RecoveryCompleted() if before.attempt.number and event.epoch == after.epoch:
            return _notice("info", f"back on a GPU after {_attempts(event.attempts)}")
        case StandbyLost() if after.standby.lost and not before.standby.lost:
            return _notice(
                "warning",
                f"the standby is lost: {event.reason}",
                "no failover is possible until it is back; nothing is to be done unless it stays",
            )
        case StandbyRestored() if before.standby.lost and not after.standby.lost:
            return _notice("info", "the standby is back")
        case FailoverRefused(recheck_at=again) if again and _newly_refused(before, after):
            # With a hint it stays so until somebody acts, and nobody serves meanwhile.
            severity = "critical" if event.hint else "warning"
            text = f"no failover although the GPU seems dead: {event.reason}"
            return _notice(severity, text, event.hint)
        case StandbyStale() if after.stale and not before.stale:
            return _notice("warning", f"the copy is stale: {event.reason}", event.hint)
        case HealthUnknown(role=Role.GPU) if event.epoch == after.epoch:
            return _notice(
                "warning",
                f"it cannot be told whether the GPU lives: {event.reason}",
                "nothing is given up or rented for it; look at our own network",
            )
        case GenerationHeld() if after.held and not before.held:
            hint = "if that is right: dumont accept NAME"
            return _notice("warning", f"the copy was held: {event.reason}", hint)
        case SpendLimitReached() if after.spend_told != before.spend_told:
            spent = f"{event.spent:.2f} of {event.maximum:.2f} $ per {event.window}"
            return _notice("warning", f"nothing is rented: GPUs cost {spent}")
        case EffectFailing() if event.effect != OWN_EFFECT:
            failing = f"{event.effect} failed {event.tries} times: {event.reason}"
            return _notice("warning", f"{failing}; it is tried on", event.hint)
        case WaitScheduled(role=Role.GPU) if _quick_tries_over(after):
            text = f"no GPU after {_attempts(after.misses)}: {event.reason}; it is tried on"
            return _notice("warning", text, "relax the policy, or wait: the standby serves")
        case _:
            return None


def _halted_anew(before: State, after: State) -> bool:
    return before.phase is not Phase.HALTED or before.reason != after.reason


def _newly_refused(before: State, after: State) -> bool:
    known = before.suspicion.refused if before.suspicion else ""
    return after.suspicion is not None and after.suspicion.refused != known


def _quick_tries_over(state: State) -> bool:
    return state.phase is Phase.RECOVERING and state.misses == state.policy.search_retries + 1


def _notice(severity: str, text: str, hint: str = "") -> Notice:
    return Notice(number=0, severity=severity, text=text, hint=hint)


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"
