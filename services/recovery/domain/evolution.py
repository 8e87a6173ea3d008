"""evolve(state, event) -> state: what we believe after an event. Total, pure, never raises.

An answer that carries an older epoch is history, not news: it changes nothing.
"""

from collections.abc import Iterable
from functools import reduce

from services.recovery.domain import mortality, renewal
from services.recovery.domain.condemned import condemn
from services.recovery.domain.fencing import fenced, halted, removed
from services.recovery.domain.notices import noticed
from services.recovery.domain.returning import (
    aborted,
    attempt_failed,
    failed_back,
    provisioning,
    ready,
    restored,
)
from services.recovery.domain.spending import metered
from services.recovery.domain.standing import (
    standby_attempt_failed,
    standby_provisioned,
    standby_restored,
)
from services.recovery.domain.state import (
    Attempt,
    End,
    Phase,
    Rollback,
    Serving,
    StandbyState,
    State,
    Step,
    Suspicion,
)
from shared.changing import replace
from shared.events import Event
from shared.events.health import HealthRestored, ThresholdReached
from shared.events.recovery import (
    EffectFailing,
    FailbackAborted,
    FailbackCompleted,
    FailbackStarted,
    FailbackVerified,
    FailoverCompleted,
    FailoverRefused,
    FailoverStarted,
    FenceDelayed,
    GenerationAccepted,
    GpuProvisioned,
    GpuReady,
    HostRenewed,
    OfferSelected,
    OrphanDestroyed,
    PrimaryFenced,
    ProvisionFailed,
    ProvisionRequested,
    RecoveryCompleted,
    RecoveryHalted,
    RecoveryStarted,
    RenewalDue,
    RequestAccepted,
    RollbackRefused,
    RollbackRequested,
    StandbyFrozen,
    StandbyLossRefused,
    StandbyLost,
    StandbyProvisioned,
    StandbyRestored,
    StandbyStale,
    StandbyThawed,
    SyncResumed,
    WaitEnded,
    WaitScheduled,
    WorkspacePaused,
    WorkspaceRegistered,
    WorkspaceRemoved,
    WorkspaceResumed,
    ZombieSeen,
)
from shared.events.sync import (
    GenerationConfirmed,
    GenerationHeld,
    RestoreDone,
    RestoreFailed,
    SyncCompleted,
)
from shared.machines import MachineId, Role, WorkspaceName

HALTS_FROM = {
    Phase.SEEDING,
    Phase.SYNCING,
    Phase.RECOVERING,
    Phase.ON_STANDBY,
    Phase.FAILING_OVER,
    Phase.FAILING_BACK,
    Phase.HALTED,  # for another reason
}
COPIED_FROM = {Phase.SEEDING, Phase.HALTED}


def fold(workspace: WorkspaceName, events: Iterable[Event]) -> State:
    """The state after all these events of one workspace."""
    return reduce(evolve, events, State(workspace=workspace))


def evolve(state: State, event: Event) -> State:
    """Total: an event that does not fit changes nothing."""
    return noticed(state, _evolved(metered(state, event), event), event)


def _evolved(state: State, event: Event) -> State:
    match event:
        # --- the workspace
        case WorkspaceRegistered() if state.phase is Phase.UNREGISTERED:
            return _registered(state, event)
        case WorkspaceRemoved() if state.phase is not Phase.UNREGISTERED:
            return removed(state)
        case _ if state.phase in {Phase.UNREGISTERED, Phase.REMOVED}:
            return fenced(state, event)
        case WorkspacePaused():
            return replace(state, paused=True)
        case WorkspaceResumed():
            return replace(state, paused=False)
        case GenerationAccepted():
            return replace(state, held=False, accept_shrink=True)
        case RequestAccepted(verb="uploaded"):
            return replace(state, complete=True, seal=state.seal + 1)

        # --- machines that must not serve: true whatever the epoch
        case (
            PrimaryFenced()
            | FenceDelayed()
            | OrphanDestroyed()
            | ZombieSeen()
            | RecoveryCompleted()
        ):
            return fenced(state, event)

        # --- changes of primary: the only events that raise the epoch
        case FailoverStarted(epoch=epoch) if epoch == state.epoch + 1:
            return _failing_over(state, event)
        case FailbackVerified(epoch=epoch) if epoch == state.epoch + 1:
            if state.step is not Step.LAST_DELTA:
                return state
            attempt = replace(state.attempt, deadline=event.switch_deadline)
            return replace(state, epoch=epoch, step=Step.SWITCHING, attempt=attempt)

        case _ if event.epoch != state.epoch:
            return state

        # --- the standby
        case ProvisionRequested(role=Role.STANDBY):
            standby = replace(
                state.standby, label=event.label, wait_until=None, on_demand=event.on_demand
            )
            return replace(state, standby=standby)
        case StandbyProvisioned():
            return standby_provisioned(state, event)
        case ProvisionFailed(role=Role.STANDBY, attempt=n) if n == state.standby.attempt:
            return standby_attempt_failed(state, event)
        case WaitScheduled(role=Role.STANDBY):
            return replace(state, standby=replace(state.standby, wait_until=event.until))
        case WaitEnded(role=Role.STANDBY):
            doubt = state.standby.suspicion and replace(state.standby.suspicion, recheck_at=None)
            return replace(state, standby=replace(state.standby, wait_until=None, suspicion=doubt))
        case StandbyLost():
            return mortality.lost(state, event)
        case StandbyLossRefused():
            return mortality.loss_refused(state, event)
        case StandbyStale():
            return replace(state, stale=True)
        case StandbyRestored():
            return standby_restored(state, event)
        case StandbyThawed():
            return replace(state, standby=replace(state.standby, thaw_owed=False))

        case RenewalDue():
            return renewal.scheduled(state, event.machine, None, owed=True)
        case HostRenewed():
            return renewal.scheduled(state, event.machine, event.renew_at)

        # --- health
        case ThresholdReached(role=Role.GPU):
            return _suspected(state, event)
        case ThresholdReached(role=Role.STANDBY):
            return mortality.suspected(state, event)
        case HealthRestored(machine=machine):
            return _answers_again(state, machine)

        # --- failover
        case RollbackRequested() if state.phase is Phase.SYNCING:
            wish = Rollback(before=event.before, reason=event.reason, actor=event.actor)
            return replace(state, rollback=wish)
        case RollbackRefused():
            return replace(state, rollback=None)
        case FailoverRefused():
            return _refused(state, event)
        case FailoverCompleted() if state.phase is Phase.FAILING_OVER:
            return replace(
                state,
                phase=Phase.ON_STANDBY,
                serving=Serving.STANDBY,
                generation=event.generation,
                promoting="",
            )
        case EffectFailing(effect="rent gpu" | "await gpu"):
            return replace(state, attempt=replace(state.attempt, words=event.reason))

        # --- recovery
        case RecoveryStarted() if state.phase in {Phase.ON_STANDBY, Phase.HALTED}:
            return replace(
                state,
                phase=Phase.RECOVERING,
                step=Step.SEARCHING,
                attempt=Attempt(number=state.attempt.number),
                misses=0,
                excluded=frozenset(),
                wait_until=None,
                reason="",
            )
        case WaitScheduled(role=Role.GPU) if state.phase is Phase.RECOVERING:
            waiting = replace(state, wait_until=event.until)
            if state.step is Step.SEARCHING:
                # An offer that was chosen before is stale by then.
                waiting = replace(waiting, attempt=Attempt(number=state.attempt.number))
            return waiting
        case WaitEnded(role=Role.GPU):
            suspicion = state.suspicion and replace(state.suspicion, recheck_at=None)
            return replace(state, wait_until=None, suspicion=suspicion)
        case RecoveryHalted() if state.phase in HALTS_FROM:
            return halted(state, event)
        case ProvisionFailed(role=Role.GPU, attempt=n) if n == state.attempt.number:
            return attempt_failed(state, event)
        case (
            OfferSelected(attempt=n) | ProvisionRequested(attempt=n) | GpuProvisioned(attempt=n)
        ) if n == state.attempt.number and state.phase is Phase.RECOVERING:
            return provisioning(state, event)
        case GpuReady():
            return ready(state, event)
        case RestoreDone(attempt=n) | RestoreFailed(attempt=n) if n == state.attempt.number:
            return restored(state, event)

        # --- failback
        case FailbackStarted() if state.step is Step.RESTORING:
            attempt = replace(state.attempt, deadline=event.freeze_deadline)
            return replace(state, phase=Phase.FAILING_BACK, step=Step.FREEZING, attempt=attempt)
        case StandbyFrozen() if state.step is Step.FREEZING:
            attempt = replace(state.attempt, frozen_at=event.frozen_at)
            return replace(state, step=Step.LAST_DELTA, attempt=attempt, seal=state.seal + 1)
        case FailbackAborted() if state.step in {Step.FREEZING, Step.LAST_DELTA}:
            return aborted(state, event)
        case FailbackCompleted() if state.step is Step.SWITCHING:
            return failed_back(state, event)

        # --- sync
        case GenerationHeld():
            return replace(state, held=True)
        case SyncCompleted() if mortality.holds(state, event):
            return _synced(state, event)
        case GenerationConfirmed(generation=generation) if generation == state.generation:
            return replace(state, generation_at=event.taken_at, stale=False)
        case SyncResumed():
            return replace(state, resume_owed=False)
    return state


def _registered(state: State, event: WorkspaceRegistered) -> State:
    adopted = event.adopted is not None
    return replace(
        state,
        epoch=event.epoch,
        phase=Phase.SEEDING if adopted else Phase.ON_STANDBY,
        serving=Serving.GPU if adopted else Serving.NOBODY,
        path=event.path,
        origin=event.origin,
        policy=event.policy,
        endpoint_port=event.endpoint_port,
        primary=event.adopted,
        primary_adopted=adopted,
        adopted=event.adopted,
        standby=StandbyState(own=event.standby),
        complete=adopted,
    )


def _failing_over(state: State, event: FailoverStarted) -> State:
    if state.phase is not Phase.SYNCING and state.step is not Step.SWITCHING:
        return state
    lost = replace(state, attempt=Attempt())
    condemned = state.condemned
    if state.attempt.host is not None:
        # Lost during the switch: people may have written there since the endpoint moved.
        condemned += (condemn(state.attempt.host, End.STOP, "it did not answer after the switch"),)
    if state.primary is not None and state.primary.provider != "ssh":
        keep = state.primary_adopted
        condemned += (condemn(state.primary, End.STOP, "it was the primary", keep=keep),)
    return replace(
        lost,
        epoch=state.epoch + 1,  # labels carry it: attempts are numbered anew in each
        phase=Phase.FAILING_OVER,
        step=Step.NONE,
        serving=Serving.NOBODY,
        primary=None,
        primary_adopted=False,
        primary_ready=False,
        resume_owed=False,
        suspicion=None,
        rollback=None if event.generation else state.rollback,
        promoting=event.generation,
        stale=False,
        condemned=condemned,
    )


def _answers_again(state: State, machine: MachineId) -> State:
    if state.suspicion and state.suspicion.machine == machine:
        state = replace(state, suspicion=None)
    standby = state.standby
    if standby.suspicion and standby.suspicion.machine == machine:
        state = replace(state, standby=replace(standby, suspicion=None))
    return state


def _suspected(state: State, event: ThresholdReached) -> State:
    primary, known = state.primary, state.suspicion
    if primary is None or primary.id != event.machine:
        return state
    if known is not None and (known.positive or not event.positive):
        return state  # said before; what the provider says now is news, and looked at now
    return replace(
        state,
        suspicion=Suspicion(
            machine=event.machine,
            reason=event.reason,
            evidence=event.evidence,
            positive=event.positive,
            refused=known.refused if known else "",
            since=known.since if known else event.seen_at,
        ),
    )


def _refused(state: State, event: FailoverRefused) -> State:
    if state.suspicion is None:
        return state
    if event.recheck_at is None:
        return replace(state, suspicion=None)
    refused = replace(
        state.suspicion,
        recheck_at=event.recheck_at,
        refused=event.reason,
        refusals=state.suspicion.refusals + 1,
    )
    return replace(state, suspicion=refused)


def _synced(state: State, event: SyncCompleted) -> State:
    from_gpu = state.primary is not None and event.source == state.primary.id
    seeded = from_gpu and state.phase in COPIED_FROM and not state.standby.lost
    return replace(
        state,
        generation=event.generation,
        generation_bytes=event.bytes,
        generation_at=event.taken_at,
        newest=event.generation,
        stale=False,
        condemned=mortality.copied_anew(state.condemned) if from_gpu else state.condemned,
        sealed=max(state.sealed, event.seal),
        held=False,
        accept_shrink=False,
        # A GPU that was believed gone for good has come back with the data.
        phase=Phase.SYNCING if seeded else state.phase,
    )
