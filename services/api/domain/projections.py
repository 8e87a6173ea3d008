"""The state of a workspace as a fold of the log: what people and programs are shown.

Independent of recovery's own state machine on purpose: two folds of one log must agree, and a
test can say so only when they were written apart. ``evolve`` is total: an event that makes no
sense here changes nothing, and it never raises.
"""

from collections.abc import Iterable
from functools import singledispatch

from services.api.domain import billing
from services.api.domain.presentation import as_json
from services.api.domain.views import (
    Billing,
    Failback,
    Failover,
    Generation,
    Machine,
    Phase,
    Recovery,
    Step,
    Trouble,
    WorkspaceView,
)
from shared.changing import replace
from shared.envelope import Envelope
from shared.events import health, recovery, sync
from shared.events.base import Event
from shared.machines import MachineId, Role

__all__ = ["Phase", "Step", "WorkspaceView", "as_json", "evolve", "fold", "generation"]


def fold(envelopes: Iterable[Envelope]) -> WorkspaceView | None:
    """The state after these events of one workspace, in log order; None before it exists."""
    view: WorkspaceView | None = None
    for envelope in envelopes:
        view = evolve(view, envelope)
    return view


def evolve(view: WorkspaceView | None, envelope: Envelope) -> WorkspaceView | None:
    """The state after one more event. Late events of an older epoch are history, not news."""
    event = envelope.event
    if view is None:
        return _born(event, envelope) if isinstance(event, recovery.WorkspaceRegistered) else None
    return billing.doubled(_after(event, view, envelope), envelope.time)


def _after(event: Event, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    view = replace(
        view,
        position=view.position if envelope.position is None else envelope.position,
        changed_at=envelope.time,
        billed=billing.evolve(view.billed, envelope),
    )
    if view.phase is Phase.REMOVED or not _is_news(event, view):
        return view
    return _apply(event, view, envelope)


_RAISES_EPOCH = (recovery.FailoverStarted, recovery.FailbackVerified)
_IN_ANY_EPOCH = (
    recovery.WorkspaceRemoved,
    recovery.WorkspacePaused,
    recovery.WorkspaceResumed,
    recovery.GenerationAccepted,
    recovery.RequestAccepted,
    recovery.RecoveryCompleted,
)
"""What people said of the workspace as a whole, and the end of an incident."""


def _is_news(event: Event, view: WorkspaceView) -> bool:
    if isinstance(event, _IN_ANY_EPOCH):
        return True
    return event.epoch == view.epoch + (1 if isinstance(event, _RAISES_EPOCH) else 0)


def _born(event: recovery.WorkspaceRegistered, envelope: Envelope) -> WorkspaceView:
    adopted = event.adopted
    view = WorkspaceView(
        name=event.workspace,
        position=envelope.position or 0,
        registered_at=envelope.time,
        changed_at=envelope.time,
        path=event.path,
        origin=event.origin,
        policy=event.policy,
        endpoint_port=event.endpoint_port,
        epoch=event.epoch,
        phase=Phase.SEEDING if adopted else Phase.ON_STANDBY,
        step=Step.PROVISIONING_STANDBY,
    )
    if adopted is None:
        return view
    return replace(
        view,
        serving=Role.GPU,
        adopted=adopted.id,
        gpu=Machine(host=adopted),
        billed=billing.rented({}, adopted, Role.GPU, 0, envelope.time),
    )


_HALTS_FROM = {
    Phase.SEEDING,
    Phase.SYNCING,
    Phase.RECOVERING,
    Phase.ON_STANDBY,
    Phase.FAILING_OVER,
    Phase.FAILING_BACK,
    Phase.HALTED,
}
_STANDBY_SERVES = {Phase.ON_STANDBY, Phase.RECOVERING}


# --- one function an event -----------------------------------------------------------------------


@singledispatch
def _apply(event: Event, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    """Requests, their refusals and mere notes change nothing by themselves."""
    return view


@_apply.register
def _(event: recovery.WorkspaceRemoved, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    """Everything that we rented is owed its end; an adopted GPU is its owner's."""
    ending = {key: replace(m, billing=Billing.ENDING) for key, m in view.billed.items()}
    return replace(
        view,
        phase=Phase.REMOVED,
        step=None,
        serving=None,
        gpu=None,
        candidate=None,
        removed_at=envelope.time,
        billed=billing.without(ending, view.adopted),
    )


@_apply.register
def _(event: recovery.WorkspacePaused, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    return replace(view, paused=Trouble(reason=event.reason, at=envelope.time))


@_apply.register
def _(event: recovery.WorkspaceResumed, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    return replace(view, paused=None)


@_apply.register
def _(event: recovery.GenerationAccepted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    return replace(view, held=None)


@_apply.register
def _(event: recovery.RequestAccepted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    uploaded = event.verb == "uploaded" and view.step is Step.AWAITING_UPLOAD
    return replace(view, step=None) if uploaded else view


# the standby


@_apply.register
def _(event: recovery.StandbyProvisioned, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    view = replace(
        view,
        standby=Machine(host=event.host),
        host_ca=event.host_ca or view.host_ca,
        serving=view.serving or Role.STANDBY,
        standby_lost=None,
        standby_trouble=None,
        standby_next_attempt_at=None,
    )
    if view.step is not Step.PROVISIONING_STANDBY:
        return view
    if view.phase is Phase.SEEDING:
        return replace(view, step=Step.FIRST_COPY)
    return replace(view, step=Step.AWAITING_UPLOAD if view.origin == "uploaded" else None)


@_apply.register
def _(event: recovery.StandbyLost, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    standby = replace(view.standby, dead=True) if view.standby else None
    lost = Trouble(reason=f"the standby is lost: {event.reason}", at=envelope.time)
    was_to_serve = view.serving is Role.STANDBY or view.phase is Phase.FAILING_OVER
    serving = None if event.gone and was_to_serve else view.serving
    return replace(view, standby=standby, standby_lost=lost, serving=serving, stale=None)


@_apply.register
def _(event: recovery.StandbyRestored, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    """Back, but until the next generation is sealed it may hold nothing."""
    seeding = Trouble(reason="the standby is back and is being seeded", at=envelope.time)
    return replace(
        view,
        standby=Machine(host=event.host),
        serving=view.serving or (Role.STANDBY if view.phase in _STANDBY_SERVES else None),
        standby_lost=seeding,
        standby_trouble=None,
        standby_next_attempt_at=None,
    )


@_apply.register
def _(event: recovery.StandbyStale, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    return replace(view, stale=Trouble(reason=event.reason, hint=event.hint, at=envelope.time))


# machines


@_apply.register
def _(event: recovery.OfferSelected, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if not _is_this_attempt(view, event.attempt):
        return view
    view = _in_recovery(view, offer=event.description, next_attempt_at=None)
    return replace(view, attempt=event.attempt, step=Step.PROVISIONING)


@_apply.register
def _(event: recovery.ProvisionRequested, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if event.role is Role.STANDBY:
        return replace(view, standby_next_attempt_at=None)
    if not _is_this_attempt(view, event.attempt):
        return view
    view = _in_recovery(view, deadline=event.deadline)
    return replace(view, attempt=event.attempt, step=Step.PROVISIONING)


@_apply.register
def _(event: recovery.GpuProvisioned, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if not _is_this_attempt(view, event.attempt) or view.step is not Step.PROVISIONING:
        return view
    view = _in_recovery(view, deadline=event.ssh_deadline)
    return replace(view, candidate=Machine(host=event.host), step=Step.WAITING_FOR_SSH)


@_apply.register
def _(event: recovery.GpuReady, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    view = replace(view, host_ca=event.host_ca or view.host_ca)
    if not _is_this_attempt(view, event.attempt) or view.step is not Step.WAITING_FOR_SSH:
        return view  # an adopted GPU is ready: it is in service already
    view = _in_recovery(view, deadline=event.restore_deadline, bytes_done=None, bytes_total=None)
    return replace(view, candidate=Machine(host=event.host), step=Step.RESTORING)


@_apply.register
def _(event: recovery.ProvisionFailed, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    failure = Trouble(reason=event.reason, hint=event.hint, stage=event.stage, at=envelope.time)
    if event.role is Role.STANDBY:
        return replace(view, standby_trouble=failure)
    under_way = view.phase in {Phase.RECOVERING, Phase.FAILING_BACK}
    over = event.attempt <= view.attempts_ended or event.attempt < view.attempt
    if not under_way or over or view.step is Step.SWITCHING:
        return view
    tries = view.recovery.tries + 1 if view.recovery else 1
    view = _in_recovery(
        view,
        last_failure=failure,
        tries=tries,
        offer="",
        deadline=None,
        next_attempt_at=None,
        round=0,
        bytes_done=None,
        bytes_total=None,
    )
    view = _attempt_ended(replace(view, attempt=event.attempt))
    return replace(view, phase=Phase.RECOVERING, step=Step.SEARCHING)


@_apply.register
def _(event: recovery.WaitScheduled, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if event.role is Role.STANDBY:
        return replace(view, standby_next_attempt_at=event.until)
    if view.phase is not Phase.RECOVERING:
        return view
    return replace(_in_recovery(view, next_attempt_at=event.until), step=Step.WAITING)


@_apply.register
def _(event: recovery.WaitEnded, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if event.role is Role.STANDBY:
        return replace(view, standby_next_attempt_at=None)
    view = replace(_in_recovery(view, next_attempt_at=None), recheck_at=None)
    return replace(view, step=Step.SEARCHING) if view.step is Step.WAITING else view


# health


@_apply.register
def _(event: health.HealthFailed, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    return _count_failures(view, event.machine, event.failures)


@_apply.register
def _(event: health.ThresholdReached, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    return _count_failures(view, event.machine, event.failures)


@_apply.register
def _(event: health.HealthUnknown, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if event.role is not Role.GPU:
        return view
    doubt = f"it cannot be told whether the GPU lives: {event.reason}"
    return replace(view, refused=Trouble(reason=doubt, at=envelope.time))


@_apply.register
def _(event: health.HealthRestored, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    view = replace(view, refused=None, recheck_at=None)
    return _count_failures(view, event.machine, 0)


# sync and restore


@_apply.register
def _(event: sync.SyncCompleted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if view.standby is None or event.standby not in {None, view.standby.host.id}:
        return view  # told of late: that standby was lost with all that it held
    sealed = generation(event, envelope.position or 0)
    standby_there = not view.standby.dead
    view = replace(
        view,
        sync_count=view.sync_count + 1,
        change_rate=_change_rate(view.last_generation, sealed),
        last_generation=sealed,
        standby_lost=None if standby_there else view.standby_lost,
        stale=None,
        confirmed_at=event.taken_at,
        held=None,
        sync_failure=None,
        sync_failures=0,
    )
    seeded = view.gpu is not None and view.gpu.host.id == event.source
    if view.phase in {Phase.SEEDING, Phase.HALTED} and seeded and standby_there:
        return replace(view, phase=Phase.SYNCING, step=None, halted=None)
    return view


@_apply.register
def _(event: sync.GenerationConfirmed, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if view.last_generation is None or view.last_generation.id != event.generation:
        return view
    return replace(
        view, confirmed_at=event.taken_at, stale=None, sync_failure=None, sync_failures=0
    )


@_apply.register
def _(event: sync.SyncFailed, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    failure = Trouble(reason=event.reason, hint=event.hint, at=envelope.time)
    return replace(view, sync_failure=failure, sync_failures=view.sync_failures + 1)


@_apply.register
def _(event: sync.GenerationHeld, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    hint = f"look at the source; if it is right: dumont accept {view.name}"
    return replace(view, held=Trouble(reason=event.reason, hint=hint, at=envelope.time))


@_apply.register
def _(event: sync.RestoreProgressed, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if event.attempt != view.attempt or view.candidate is None:
        return view
    view = _in_recovery(view, bytes_done=event.bytes_done, bytes_total=event.bytes_total)
    complete = event.bytes_done >= event.bytes_total
    return replace(view, step=Step.VERIFYING) if complete and _is_restoring(view) else view


@_apply.register
def _(event: sync.RestoreDone, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if event.attempt != view.attempt or view.candidate is None:
        return view
    view = _in_recovery(view, round=event.round, bytes_done=event.bytes, bytes_total=event.bytes)
    if event.final and view.phase is Phase.FAILING_BACK:
        return replace(view, step=Step.VERIFYING)
    return replace(view, step=Step.RESTORING) if _is_restoring(view) else view


@_apply.register
def _(event: sync.RestoreFailed, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if event.attempt != view.attempt:
        return view
    failure = Trouble(reason=event.reason, hint=event.hint, stage="restore", at=envelope.time)
    return _in_recovery(view, last_failure=failure)


# failover


@_apply.register
def _(event: recovery.FailoverStarted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if view.phase not in {Phase.SYNCING, Phase.FAILING_BACK}:
        return view
    view = _attempt_ended(view)
    return replace(
        view,
        epoch=event.epoch,
        attempt=0,  # labels carry the epoch: attempts are counted anew in each
        attempts_ended=0,
        phase=Phase.FAILING_OVER,
        step=None,
        gpu=replace(view.gpu, dead=True) if view.gpu else None,
        recovery=None,
        refused=None,
        recheck_at=None,
        stale=None,
        failover=Failover(started_at=envelope.time, reason=event.reason),
        incident=envelope.correlation,
        billed=billing.marked(view.billed, event.machine, Billing.ENDING),
    )


@_apply.register
def _(event: recovery.FailoverRefused, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    refused = Trouble(reason=event.reason, hint=event.hint, at=envelope.time)
    return replace(view, refused=refused, recheck_at=event.recheck_at)


@_apply.register
def _(event: recovery.FailoverCompleted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if view.phase is not Phase.FAILING_OVER or view.failover is None:
        return view
    completed = replace(
        view.failover,
        completed_at=envelope.time,
        seconds=event.seconds,
        generation=event.generation,
        generation_age_seconds=event.generation_age_seconds,
    )
    return replace(view, phase=Phase.ON_STANDBY, serving=Role.STANDBY, gpu=None, failover=completed)


# recovery and failback


@_apply.register
def _(event: recovery.RecoveryStarted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if view.phase not in {Phase.ON_STANDBY, Phase.HALTED}:
        return view
    return replace(
        view,
        phase=Phase.RECOVERING,
        step=Step.SEARCHING,
        recovery=Recovery(reason=event.reason, started_at=envelope.time),
        halted=None,
        incident=envelope.correlation or view.incident,
    )


@_apply.register
def _(event: recovery.RecoveryHalted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if view.phase not in _HALTS_FROM:
        return view
    halted = Trouble(reason=event.reason, hint=event.hint, at=envelope.time)
    if event.code == "no-data" and view.step is Step.SWITCHING:
        # What else has the data? It stays in its place, should it come back.
        view = replace(view, gpu=view.candidate, candidate=None, serving=Role.GPU)
    view = _in_recovery(_attempt_ended(view), next_attempt_at=None, deadline=None)
    return replace(view, phase=Phase.HALTED, step=None, halted=halted)


@_apply.register
def _(event: recovery.FailbackStarted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if not _is_restoring(view):
        return view
    view = _in_recovery(view, deadline=event.freeze_deadline, next_attempt_at=None)
    return replace(view, phase=Phase.FAILING_BACK, step=Step.FREEZING)


@_apply.register
def _(event: recovery.StandbyFrozen, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    return replace(view, step=Step.LAST_DELTA) if view.step is Step.FREEZING else view


@_apply.register
def _(event: recovery.FailbackAborted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if view.phase is not Phase.FAILING_BACK or view.step is Step.SWITCHING:
        return view
    failure = Trouble(reason=event.reason, stage="failback", at=envelope.time)
    view = _in_recovery(
        view,
        last_failure=failure,
        deadline=event.restore_deadline,
        next_attempt_at=event.retry_at,
    )
    return replace(view, phase=Phase.RECOVERING, step=Step.RESTORING)


@_apply.register
def _(event: recovery.FailbackVerified, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    sent = view.phase is Phase.FAILING_BACK and view.step in {Step.LAST_DELTA, Step.VERIFYING}
    if not sent:
        return view
    view = _in_recovery(view, deadline=event.switch_deadline)
    return replace(view, epoch=event.epoch, step=Step.SWITCHING)


@_apply.register
def _(event: recovery.FailbackCompleted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    if view.step is not Step.SWITCHING:
        return view
    return replace(
        _in_recovery(view, deadline=None),
        phase=Phase.SYNCING,
        step=Step.FIRST_SYNC,
        attempts_ended=view.attempt,
        serving=Role.GPU,
        gpu=view.candidate,
        candidate=None,
        failback=Failback(completed_at=event.completed_at, pause_seconds=event.pause_seconds),
    )


@_apply.register
def _(event: recovery.SyncResumed, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    return replace(view, step=None) if view.step is Step.FIRST_SYNC else view


@_apply.register
def _(event: recovery.RecoveryCompleted, view: WorkspaceView, envelope: Envelope) -> WorkspaceView:
    """The incident is over: what was only stopped until now is destroyed next."""
    billed = {
        key: replace(m, billing=Billing.ENDING)
        if m.billing is Billing.STOPPED and key != view.adopted
        else m
        for key, m in view.billed.items()
    }
    step = None if view.step is Step.FIRST_SYNC else view.step
    return replace(view, step=step, recovery=None, incident=None, billed=billed)


# --- small parts ---------------------------------------------------------------------------------


def generation(event: sync.SyncCompleted, position: int) -> Generation:
    """What SyncCompleted tells, as the generation that it sealed."""
    return Generation(
        id=event.generation,
        epoch=event.epoch,
        sequence=event.sequence,
        source=event.source,
        files=event.files,
        bytes=event.bytes,
        bytes_changed=event.bytes_changed,
        manifest_sha256=event.manifest_sha256,
        seconds=event.seconds,
        taken_at=event.taken_at,
        completed_at=event.completed_at,
        position=position,
    )


def _change_rate(before: Generation | None, after: Generation) -> float | None:
    """Bytes a second. None after the first generation: everything was new then."""
    if before is None:
        return None
    seconds = (after.taken_at - before.taken_at).total_seconds()
    return after.bytes_changed / seconds if seconds > 0 else None


def _is_this_attempt(view: WorkspaceView, attempt: int) -> bool:
    news = attempt > view.attempts_ended and attempt >= view.attempt
    return view.phase is Phase.RECOVERING and news


def _is_restoring(view: WorkspaceView) -> bool:
    return view.phase is Phase.RECOVERING and view.step in {Step.RESTORING, Step.VERIFYING}


def _in_recovery(view: WorkspaceView, **changes: object) -> WorkspaceView:
    """Change the recovery under way; without one there is nothing to change."""
    if view.recovery is None:
        return view
    return replace(view, recovery=replace(view.recovery, **changes))  # type: ignore[arg-type]


def _attempt_ended(view: WorkspaceView) -> WorkspaceView:
    """Whatever this attempt rented, or may have rented, is owed its end."""
    billed = view.billed
    for machine in view.billed.values():
        ours = machine.role is Role.GPU and machine.attempt == view.attempt
        if ours and (view.gpu is None or view.gpu.host.id != machine.id):
            billed = billing.marked(billed, machine.id, Billing.ENDING)
    return replace(view, billed=billed, candidate=None, attempts_ended=view.attempt)


def _count_failures(view: WorkspaceView, machine: MachineId, failures: int) -> WorkspaceView:
    if view.gpu is not None and view.gpu.host.id == machine:
        return replace(view, gpu=replace(view.gpu, failures=failures))
    if view.standby is not None and view.standby.host.id == machine:
        return replace(view, standby=replace(view.standby, failures=failures))
    return view
