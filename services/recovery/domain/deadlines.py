"""due(state, now) -> events: deadlines and waits that are over. Pure, and idempotent."""

from collections.abc import Callable
from datetime import datetime, timedelta

from services.recovery.domain.decider import (
    attempt_failed,
    failover_limitation,
    freeze_if_converged,
    grown,
    refuse,
)
from services.recovery.domain.freshness import grown_stale
from services.recovery.domain.mortality import look_without_copy, recheck_over
from services.recovery.domain.renewal import next_due
from services.recovery.domain.state import Phase, State, Step
from shared.events import Event
from shared.events.recovery import FailbackAborted, FailoverStarted, WaitEnded
from shared.machines import Role


def due(state: State, now: datetime) -> tuple[Event, ...]:
    """The first thing whose time has come; ask again after recording it."""
    if state.phase in {Phase.UNREGISTERED, Phase.REMOVED}:
        return ()
    for over in (
        _standby_wait_over,
        _gpu_wait_over,
        _deadline_over,
        _recheck_over,
        grown_stale,
        next_due,
    ):
        if events := over(state, now):
            return events
    return ()


def _standby_wait_over(state: State, now: datetime) -> tuple[Event, ...]:
    until = state.standby.wait_until
    waited = until is not None and now >= until
    if not waited and not recheck_over(state, now):
        return ()
    return (
        WaitEnded(
            workspace=state.workspace,
            epoch=state.epoch,
            role=Role.STANDBY,
            attempt=state.standby.attempt if waited else 0,
        ),
    )


def _gpu_wait_over(state: State, now: datetime) -> tuple[Event, ...]:
    if state.phase is not Phase.RECOVERING or state.wait_until is None or now < state.wait_until:
        return ()
    if state.step is Step.RESTORING:
        return freeze_if_converged(state, now)
    return (
        WaitEnded(
            workspace=state.workspace,
            epoch=state.epoch,
            role=Role.GPU,
            attempt=state.attempt.number,
        ),
    )


def _deadline_over(state: State, now: datetime) -> tuple[Event, ...]:
    deadline = state.attempt.deadline
    if deadline is None or now < deadline:
        return ()
    words = f"; its last words: {state.attempt.words}" if state.attempt.words else ""
    late: dict[Step, Callable[[], Event]] = {
        Step.PROVISIONING: lambda: attempt_failed(
            state, "rent", f"the market did not confirm the rental in time{words}"
        ),
        Step.WAITING_FOR_SSH: lambda: attempt_failed(
            state, "ssh", f"no SSH within {state.policy.ssh_timeout:g} s{words}"
        ),
        Step.RESTORING: lambda: attempt_failed(state, "restore", "the restore did not end in time"),
        Step.FREEZING: lambda: _abort(state, now, "the standby could not be frozen in time"),
        Step.LAST_DELTA: lambda: _abort(state, now, "the last delta did not end in time"),
        Step.SWITCHING: lambda: _take_over_again(state),
    }
    if state.step is Step.SWITCHING and (state.standby.lost or not state.generation):
        return ()  # there is nobody to take over, or with nothing: the switch is all there is
    return (late[state.step](),) if state.step in late else ()


def _abort(state: State, now: datetime, reason: str) -> Event:
    restore = state.policy.restore_deadline(state.generation_bytes)
    pause = grown(state, state.attempt.aborts)
    return FailbackAborted(
        workspace=state.workspace,
        epoch=state.epoch,
        attempt=state.attempt.number,
        reason=reason,
        retry_at=now + timedelta(seconds=pause),
        restore_deadline=now + timedelta(seconds=restore + pause),
    )


def _take_over_again(state: State) -> Event:
    assert state.attempt.host is not None
    return FailoverStarted(
        workspace=state.workspace,
        epoch=state.epoch + 1,
        machine=state.attempt.host.id,
        reason="the new GPU did not answer through the endpoint after the switch",
    )


def _recheck_over(state: State, now: datetime) -> tuple[Event, ...]:
    suspicion = state.suspicion
    if suspicion is None or (suspicion.recheck_at is not None and now < suspicion.recheck_at):
        return ()
    if state.phase is Phase.HALTED:
        return ()  # people were told already
    look = look_without_copy(state)
    reason = None if look else failover_limitation(state, now=now)
    if suspicion.recheck_at is None:
        # Either we are looking already, or something came in between that forbids it.
        return (refuse(state, now, reason),) if reason else ()
    if reason:
        return ()  # said once; looked at again by itself as soon as it may be
    return (WaitEnded(workspace=state.workspace, epoch=state.epoch, role=Role.GPU, attempt=0),)
