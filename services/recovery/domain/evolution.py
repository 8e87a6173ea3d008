"""evolve(state, event) -> state: what we believe after an event. Total, pure, never raises.

An answer that carries an older epoch is history, not news: it changes nothing.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

from services.recovery.domain.state import (
    Attempt,
    Condemned,
    End,
    Phase,
    Serving,
    StandbyState,
    State,
    Step,
    Suspicion,
)
from shared.events import Event
from shared.events.health import HealthRestored, ThresholdReached
from shared.events.recovery import (
    FailbackAborted,
    FailbackCompleted,
    FailbackStarted,
    FailbackVerified,
    FailoverCompleted,
    FailoverRefused,
    FailoverStarted,
    GenerationAccepted,
    GpuProvisioned,
    GpuReady,
    OfferSelected,
    OrphanDestroyed,
    PrimaryFenced,
    ProvisionFailed,
    ProvisionRequested,
    RecoveryCompleted,
    RecoveryHalted,
    RecoveryStarted,
    RequestAccepted,
    StandbyFrozen,
    StandbyLost,
    StandbyProvisioned,
    StandbyRestored,
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
from shared.events.sync import GenerationHeld, RestoreDone, RestoreFailed, SyncCompleted
from shared.machines import Host, Role, WorkspaceName


def fold(workspace: WorkspaceName, events: Iterable[Event]) -> State:
    """The state after all these events of one workspace."""
    return reduce(evolve, events, State(workspace=workspace))


def evolve(state: State, event: Event) -> State:
    match event:
        # --- the workspace
        case WorkspaceRegistered() if state.phase is Phase.UNREGISTERED:
            return _registered(state, event)
        case WorkspaceRemoved() if state.phase is not Phase.UNREGISTERED:
            return _removed(state)
        case _ if state.phase in {Phase.UNREGISTERED, Phase.REMOVED}:
            return _fenced(state, event)
        case WorkspacePaused():
            return replace(state, paused=True)
        case WorkspaceResumed():
            return replace(state, paused=False)
        case GenerationAccepted():
            return replace(state, held=False, accept_shrink=True)
        case RequestAccepted(verb="uploaded"):
            return replace(state, complete=True, seal=state.seal + 1)

        # --- machines that must not serve: true whatever the epoch
        case PrimaryFenced() | OrphanDestroyed() | ZombieSeen() | RecoveryCompleted():
            return _fenced(state, event)

        # --- changes of primary: the only events that raise the epoch
        case FailoverStarted(epoch=epoch) if epoch == state.epoch + 1:
            return _failing_over(state)
        case FailbackVerified(epoch=epoch) if epoch == state.epoch + 1:
            if state.step is not Step.LAST_DELTA:
                return state
            attempt = replace(state.attempt, deadline=event.switch_deadline)
            return replace(state, epoch=epoch, step=Step.SWITCHING, attempt=attempt)

        case _ if event.epoch != state.epoch:
            return state

        # --- the standby
        case ProvisionRequested(role=Role.STANDBY):
            return replace(
                state, standby=replace(state.standby, label=event.label, wait_until=None)
            )
        case StandbyProvisioned():
            return _standby_provisioned(state, event)
        case ProvisionFailed(role=Role.STANDBY, attempt=n) if n == state.standby.attempt:
            return _standby_attempt_failed(state, event)
        case WaitScheduled(role=Role.STANDBY):
            return replace(state, standby=replace(state.standby, wait_until=event.until))
        case WaitEnded(role=Role.STANDBY):
            return replace(state, standby=replace(state.standby, wait_until=None))
        case StandbyLost():
            return replace(state, standby=replace(state.standby, lost=event.reason))
        case StandbyRestored():
            return _standby_restored(state, event)
        case StandbyThawed():
            return replace(state, standby=replace(state.standby, thaw_owed=False))

        # --- health
        case ThresholdReached(role=Role.GPU):
            return _suspected(state, event)
        case HealthRestored(machine=machine):
            if state.suspicion and state.suspicion.machine == machine:
                return replace(state, suspicion=None)
            return state

        # --- failover
        case FailoverRefused():
            return _refused(state, event)
        case FailoverCompleted() if state.phase is Phase.FAILING_OVER:
            return replace(
                state,
                phase=Phase.ON_STANDBY,
                serving=Serving.STANDBY,
                generation=event.generation,
            )

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
            return replace(state, wait_until=event.until)
        case WaitEnded(role=Role.GPU):
            suspicion = state.suspicion and replace(state.suspicion, recheck_at=None)
            return replace(state, wait_until=None, suspicion=suspicion)
        case RecoveryHalted() if state.phase in {Phase.RECOVERING, Phase.ON_STANDBY}:
            return replace(
                _attempt_ended(state), phase=Phase.HALTED, step=Step.NONE, reason=event.reason
            )
        case ProvisionFailed(role=Role.GPU, attempt=n) if n == state.attempt.number:
            return _attempt_failed(state, event)
        case (
            OfferSelected(attempt=n) | ProvisionRequested(attempt=n) | GpuProvisioned(attempt=n)
        ) if n == state.attempt.number and state.phase is Phase.RECOVERING:
            return _provisioning(state, event)
        case GpuReady():
            return _ready(state, event)
        case RestoreDone(attempt=n) | RestoreFailed(attempt=n) if n == state.attempt.number:
            return _restored(state, event)

        # --- failback
        case FailbackStarted() if state.step is Step.RESTORING:
            attempt = replace(state.attempt, deadline=event.freeze_deadline)
            return replace(state, phase=Phase.FAILING_BACK, step=Step.FREEZING, attempt=attempt)
        case StandbyFrozen() if state.step is Step.FREEZING:
            attempt = replace(state.attempt, frozen_at=event.frozen_at)
            return replace(state, step=Step.LAST_DELTA, attempt=attempt, seal=state.seal + 1)
        case FailbackAborted() if state.step in {Step.FREEZING, Step.LAST_DELTA}:
            return _aborted(state, event)
        case FailbackCompleted() if state.step is Step.SWITCHING:
            return _failed_back(state, event)

        # --- sync
        case GenerationHeld():
            return replace(state, held=True)
        case SyncCompleted():
            return _synced(state, event)
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


def _removed(state: State) -> State:
    given_up = _attempt_ended(state)
    condemned = given_up.condemned
    if state.primary is not None and not state.primary_adopted:
        condemned += (condemn(state.primary, End.DESTROY, "the workspace was removed"),)
    standby = state.standby
    if standby.own is None and (standby.host or standby.label):
        condemned += (
            condemn(standby.host, End.DESTROY, "the workspace was removed")
            if standby.host
            else Condemned(
                machine=standby.label,  # type: ignore[arg-type] # one of the two is there
                provider="gce",
                provider_id="",
                end=End.DESTROY,
                orphan=True,
                reason="the workspace was removed",
            ),
        )
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


def condemn(
    host: Host, end: End, reason: str, *, orphan: bool = False, keep: bool = False
) -> Condemned:
    """The entry that owes ``host`` its end."""
    return Condemned(
        machine=host.id,
        provider=host.provider,
        provider_id=host.provider_id,
        end=end,
        orphan=orphan,
        reason=reason,
        keep=keep,
    )


def _fenced(state: State, event: Event) -> State:
    """What machines without a place are owed, and what was seen of them."""
    match event:
        case PrimaryFenced(how="stopped"):
            kept = tuple(
                replace(c, seen=True) if c.machine == event.machine and c.end is End.STOP else c
                for c in state.condemned
            )
        case PrimaryFenced() | OrphanDestroyed():
            kept = tuple(
                c
                for c in state.condemned
                if (c.machine, c.provider_id)
                not in {
                    (event.machine, event.provider_id),
                    (event.machine, ""),
                }
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


def _failing_over(state: State) -> State:
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
        condemned=condemned,
    )


def _standby_provisioned(state: State, event: StandbyProvisioned) -> State:
    first_data_there = state.origin == "empty" and not state.complete
    return replace(
        _with_standby(state, event.host, state.generation),
        serving=Serving.STANDBY if state.serving is Serving.NOBODY else state.serving,
        complete=state.complete or first_data_there,
        seal=state.seal + 1 if first_data_there else state.seal,
    )


def _standby_attempt_failed(state: State, event: ProvisionFailed) -> State:
    standby = state.standby
    if standby.host is not None:
        # It served before and may hold the only copy: it is tried again, never given up.
        return replace(state, standby=replace(standby, attempt=standby.attempt + 1))
    next_one = replace(standby, attempt=standby.attempt + 1, label=None)
    if standby.label is None or standby.own is not None:
        return replace(state, standby=next_one)
    abandoned = Condemned(
        machine=standby.label,
        provider="gce",
        provider_id="",
        end=End.DESTROY,
        orphan=True,
        reason=event.reason,
    )
    return replace(state, standby=next_one, condemned=(*state.condemned, abandoned))


def _standby_restored(state: State, event: StandbyRestored) -> State:
    return _with_standby(state, event.host, event.generation)


def _with_standby(state: State, host: Host, generation: str) -> State:
    """A machine in place of another starts with an empty store, whatever was in the old one."""
    before = state.standby.host
    same = before is None or (before.id, before.provider_id) == (host.id, host.provider_id)
    holds = generation if same else ""
    return replace(
        state,
        standby=replace(state.standby, host=host, lost="", wait_until=None),
        generation=holds,
        generation_bytes=state.generation_bytes if holds else 0,
    )


def _suspected(state: State, event: ThresholdReached) -> State:
    primary = state.primary
    if primary is None or primary.id != event.machine or state.suspicion is not None:
        return state
    return replace(
        state,
        suspicion=Suspicion(
            machine=event.machine,
            reason=event.reason,
            evidence=event.evidence,
            positive=event.positive,
        ),
    )


def _refused(state: State, event: FailoverRefused) -> State:
    if state.suspicion is None:
        return state
    if event.recheck_at is None:
        return replace(state, suspicion=None)
    return replace(state, suspicion=replace(state.suspicion, recheck_at=event.recheck_at))


def _attempt_ended(state: State) -> State:
    """This attempt is over: whatever it rented is owed its end."""
    attempt = state.attempt
    condemned = state.condemned
    if attempt.host is not None and attempt.host != state.primary:
        condemned += (
            condemn(attempt.host, End.DESTROY, f"attempt {attempt.number} ended", orphan=True),
        )
    elif attempt.label is not None and attempt.host is None:
        condemned += (
            Condemned(
                machine=attempt.label,
                provider="vast",
                provider_id="",
                end=End.DESTROY,
                orphan=True,
                reason=f"attempt {attempt.number} ended without an answer",
            ),
        )
    frozen = state.step in {Step.FREEZING, Step.LAST_DELTA}
    return replace(
        state,
        condemned=condemned,
        attempt=Attempt(number=attempt.number + 1),
        standby=replace(state.standby, thaw_owed=True) if frozen else state.standby,
    )


def _attempt_failed(state: State, event: ProvisionFailed) -> State:
    if state.phase not in {Phase.RECOVERING, Phase.FAILING_BACK} or state.step is Step.SWITCHING:
        return state
    blamed = event.market_machine or state.attempt.market_machine
    return replace(
        _attempt_ended(state),
        phase=Phase.RECOVERING,
        step=Step.SEARCHING,
        misses=state.misses + 1,
        wait_until=None,
        excluded=_excluded(state, event, blamed),
    )


def _excluded(state: State, event: ProvisionFailed, blamed: str) -> frozenset[str]:
    """Machines that failed are passed over, until there is nothing else left."""
    if event.stage == "search":
        return frozenset()
    return state.excluded | {blamed} if blamed else state.excluded


def _provisioning(
    state: State, event: OfferSelected | ProvisionRequested | GpuProvisioned
) -> State:
    attempt = state.attempt
    if state.step is not (
        Step.PROVISIONING if isinstance(event, GpuProvisioned) else Step.SEARCHING
    ):
        return state
    match event:
        case OfferSelected():
            return replace(
                state,
                wait_until=None,
                attempt=replace(
                    attempt,
                    offer=event.offer,
                    market_machine=event.market_machine,
                    bid=event.bid,
                ),
            )
        case ProvisionRequested():
            attempt = replace(attempt, label=event.label, deadline=event.deadline)
            return replace(state, step=Step.PROVISIONING, attempt=attempt)
        case GpuProvisioned():
            attempt = replace(attempt, host=event.host, deadline=event.ssh_deadline)
            return replace(state, step=Step.WAITING_FOR_SSH, attempt=attempt)


def _ready(state: State, event: GpuReady) -> State:
    if state.primary_adopted and state.primary and state.primary.id == event.host.id:
        return replace(state, primary=event.host, primary_ready=True)
    if event.attempt != state.attempt.number or state.step is not Step.WAITING_FOR_SSH:
        return state
    attempt = replace(state.attempt, host=event.host, deadline=event.restore_deadline, round=1)
    return replace(state, step=Step.RESTORING, attempt=attempt, seal=state.seal + 1)


def _restored(state: State, event: RestoreDone | RestoreFailed) -> State:
    attempt = state.attempt
    if isinstance(event, RestoreFailed):
        if event.round != attempt.round:
            return state
        return replace(state, attempt=replace(attempt, failures=attempt.failures + 1))
    if event.final or event.round != attempt.round or state.step is not Step.RESTORING:
        return state
    small = event.seconds <= state.policy.freeze_bound
    if small:
        # No further round is owed: what is left goes with the last delta.
        return replace(state, attempt=replace(attempt, failures=0, converged=True))
    return replace(
        state,
        seal=state.seal + 1,
        attempt=replace(attempt, round=attempt.round + 1, failures=0),
    )


def _aborted(state: State, event: FailbackAborted) -> State:
    attempt = replace(
        state.attempt,
        deadline=event.restore_deadline,
        round=state.attempt.round + 1,
        failures=0,
        aborts=state.attempt.aborts + 1,
        converged=False,
        frozen_at=None,
    )
    return replace(
        state,
        phase=Phase.RECOVERING,
        step=Step.RESTORING,
        attempt=attempt,
        wait_until=event.retry_at,
        standby=replace(state.standby, thaw_owed=True),
    )


def _failed_back(state: State, event: FailbackCompleted) -> State:
    return replace(
        state,
        phase=Phase.SYNCING,
        step=Step.NONE,
        serving=Serving.GPU,
        primary=state.attempt.host,
        primary_adopted=False,
        primary_ready=True,
        primary_since=event.completed_at,
        attempt=Attempt(number=state.attempt.number),
        resume_owed=True,
        misses=0,
        wait_until=None,
    )


def _synced(state: State, event: SyncCompleted) -> State:
    seeded = (
        state.phase is Phase.SEEDING
        and state.primary is not None
        and event.source == state.primary.id
    )
    return replace(
        state,
        generation=event.generation,
        generation_bytes=event.bytes,
        sealed=max(state.sealed, event.seal),
        held=False,
        accept_shrink=False,
        phase=Phase.SYNCING if seeded else state.phase,
    )
