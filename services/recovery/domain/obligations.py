"""What follows from a state alone: the effects still owed, the endpoint, the assignment.

Asked again after any crash, ``pending`` is the whole of crash recovery: it names every effect
whose outcome was never recorded.
"""

from enum import Enum

from services.recovery.domain import mortality, renewal
from services.recovery.domain.effects import (
    AwaitGpu,
    ConfirmDeath,
    ConfirmStandbyLoss,
    Effect,
    Fence,
    FindGeneration,
    FreezeStandby,
    PrepareAdopted,
    PromoteStandby,
    ProvisionStandby,
    RenewHost,
    RentGpu,
    SearchOffers,
    SendNotice,
    SwitchToGpu,
    ThawStandby,
    WatchCandidate,
)
from services.recovery.domain.state import Phase, Serving, State, Step
from services.recovery.domain.world import Backend
from shared.assignments import Assignment, SyncMode
from shared.machines import Host, Role

__all__ = ["Leave", "assignment", "endpoint", "pending"]


def pending(state: State) -> tuple[Effect, ...]:
    """Every effect that this state owes the world, in no order."""
    return (
        *_fences(state),
        *_standby(state),
        *_standby_suspected(state),
        *_renewals(state),
        *_rollback(state),
        *_primary(state),
        *_attempt(state),
        *_notices(state),
    )


def _fences(state: State) -> tuple[Effect, ...]:
    return tuple(
        Fence(condemned=condemned, epoch=state.epoch)
        for condemned in state.condemned
        if not condemned.seen
    )


def _notices(state: State) -> tuple[Effect, ...]:
    """One after the other, so that they arrive in order."""
    return tuple(SendNotice(notice=notice, epoch=state.epoch) for notice in state.notices[:1])


def _standby(state: State) -> tuple[Effect, ...]:
    standby = state.standby
    if state.phase in {Phase.UNREGISTERED, Phase.REMOVED}:
        return ()
    if not standby.missing and standby.host is not None and standby.thaw_owed:
        return (ThawStandby(attempt=state.attempt.number, epoch=state.epoch, host=standby.host),)
    if not standby.missing or standby.wait_until is not None:
        return ()
    if standby.label is None:
        return ()  # the decision that names it is on its way
    if state.step in {Step.FREEZING, Step.LAST_DELTA}:
        return ()  # it is frozen: first that ends, by its deadline
    gives_way = state.step is Step.SWITCHING
    serves = state.serving in {Serving.NOBODY, Serving.STANDBY} and not gives_way
    return (
        ProvisionStandby(
            label=standby.label,
            attempt=standby.attempt,
            epoch=state.epoch,
            own=standby.own,
            serve=serves,
            revive=standby.host,
            again=bool(standby.lost),
            on_demand=standby.on_demand,
        ),
    )


def _standby_suspected(state: State) -> tuple[Effect, ...]:
    host, suspicion = state.standby.host, state.standby.suspicion
    if host is None or suspicion is None or suspicion.recheck_at is not None:
        return ()
    if state.standby.lost or state.phase is Phase.REMOVED:
        return ()
    return (ConfirmStandbyLoss(epoch=state.epoch, host=host, suspicion=suspicion),)


def _renewals(state: State) -> tuple[Effect, ...]:
    return tuple(
        RenewHost(epoch=state.epoch, host=host, role=role) for host, role in renewal.owed(state)
    )


def _rollback(state: State) -> tuple[Effect, ...]:
    if state.rollback is None or state.phase is Phase.REMOVED:
        return ()
    return (FindGeneration(epoch=state.epoch, rollback=state.rollback),)


def _primary(state: State) -> tuple[Effect, ...]:
    if state.phase is Phase.FAILING_OVER:
        there = state.standby.host if not state.standby.lost else None  # else it is revived first
        if there is None:
            return ()
        return (PromoteStandby(epoch=state.epoch, host=there, generation=state.promoting),)
    primary = state.primary
    if primary is None:
        return ()
    if state.phase is Phase.SEEDING and not state.primary_ready:
        return (PrepareAdopted(host=primary, epoch=state.epoch),)
    suspicion = state.suspicion
    if suspicion is None or suspicion.recheck_at is not None:
        return ()
    alone = mortality.look_without_copy(state)
    if not alone and not _may_fail_over(state):
        return ()
    return (ConfirmDeath(epoch=state.epoch, host=primary, suspicion=suspicion, alone=alone),)


def _may_fail_over(state: State) -> bool:
    """The timeless part of what limits a failover; ``due`` says why when it is false."""
    ready = state.standby.host is not None and not state.standby.lost and bool(state.generation)
    automatic = state.policy.auto_failover and not state.paused
    return state.phase is Phase.SYNCING and ready and automatic


def _attempt(state: State) -> tuple[Effect, ...]:
    if state.phase not in {Phase.RECOVERING, Phase.FAILING_BACK}:
        return ()
    attempt, epoch = state.attempt, state.epoch
    number = attempt.number
    if state.step is Step.SEARCHING:
        waiting = state.wait_until is not None or bool(attempt.offer) or state.paused
        # Two GPUs are never paid for at once: the last one is seen to its end before the next.
        waiting = waiting or any(ending.billed for ending in state.condemned)
        # Nothing could be restored from a standby that is lost: a GPU would be paid for waiting.
        waiting = waiting or state.standby.host is None or bool(state.standby.lost)
        return () if waiting else (SearchOffers(attempt=number, epoch=epoch),)
    if state.step is Step.PROVISIONING:
        assert attempt.label is not None
        return (
            RentGpu(
                attempt=number,
                epoch=epoch,
                label=attempt.label,
                offer=attempt.offer,
                bid=attempt.bid,
            ),
        )
    host = attempt.host
    assert host is not None
    if state.step is Step.WAITING_FOR_SSH:
        return (AwaitGpu(attempt=number, epoch=epoch, host=host),)
    return (*_failback(state, host), *_candidate(state, host))


def _candidate(state: State, host: Host) -> tuple[Effect, ...]:
    if state.step is Step.SWITCHING:
        return ()
    return (WatchCandidate(attempt=state.attempt.number, epoch=state.epoch, host=host),)


def _failback(state: State, host: Host) -> tuple[Effect, ...]:
    standby = None if state.standby.lost else state.standby.host
    if state.step is Step.FREEZING and standby is not None:
        return (
            FreezeStandby(
                attempt=state.attempt.number,
                epoch=state.epoch,
                host=standby,
                timeout=state.policy.freeze_timeout,
            ),
        )
    if state.step is Step.SWITCHING:
        there = None if state.standby.lost else standby
        return (SwitchToGpu(epoch=state.epoch, standby=there, host=host),)
    return ()


# --- the endpoint ----------------------------------------------------------------------------


class Leave(Enum):
    """The endpoint is in the hands of a switch that is under way: do not touch it."""

    ALONE = "alone"


def endpoint(state: State) -> Backend | Leave | None:
    """Where the workspace's endpoint is to lead; None: it serves nobody."""
    if state.phase is Phase.FAILING_OVER or state.step is Step.SWITCHING:
        return Leave.ALONE
    closed = state.phase is Phase.FAILING_BACK or state.standby.thaw_owed
    if state.serving is Serving.STANDBY and state.standby.host and not closed:
        return Backend(address=state.standby.host.address, port=state.standby.host.port)
    if state.serving is Serving.GPU and state.primary and state.primary_ready:
        return Backend(address=state.primary.address, port=state.primary.port)
    return None


# --- what health and sync are to do ----------------------------------------------------------


def assignment(state: State, *, position: int, host_ca: str, user_ca: str) -> Assignment:
    """The work of health and sync in this state."""
    restoring = state.phase in {Phase.RECOVERING, Phase.FAILING_BACK}
    primary = state.primary if state.serving is Serving.GPU and state.primary_ready else None
    return Assignment(
        workspace=state.workspace,
        epoch=state.epoch,
        position=position,
        mode=_mode(state),
        path=state.path,
        policy=state.policy,
        host_ca=host_ca,
        user_ca=user_ca,
        standby=state.standby.host,
        primary=primary,
        candidate=state.attempt.host if restoring else None,
        attempt=state.attempt.number,
        round=state.attempt.round,
        seal=state.seal,
        accept_shrink=state.accept_shrink,
        removed=state.phase is Phase.REMOVED,
        watch=tuple(host for host in (primary, state.standby.host) if host is not None),
    )


def _mode(state: State) -> SyncMode:
    """What the data plane is to do in this state."""
    if state.standby.host is None or state.standby.lost or state.standby.thaw_owed:
        return SyncMode.IDLE
    if state.serving is Serving.GPU:
        return SyncMode.MIRROR if state.primary_ready else SyncMode.IDLE
    if state.serving is Serving.NOBODY or not state.complete:
        return SyncMode.IDLE  # an upload under way is sealed when it is whole
    match state.step:
        case Step.RESTORING if not state.attempt.converged:
            return SyncMode.RESTORE
        case Step.LAST_DELTA:
            return SyncMode.FINAL
        case Step.FREEZING | Step.SWITCHING:
            return SyncMode.IDLE
        case _:
            return SyncMode.SERVE


def role_of(state: State, label: str, provider_id: str) -> Role | None:
    """The role that the state has for a machine found in a provider's account, None for none."""
    standby, attempt = state.standby, state.attempt
    if state.phase is Phase.REMOVED:
        return None
    if standby.host is not None and provider_id == standby.host.provider_id:
        return Role.STANDBY
    if label == standby.label and standby.missing:
        return Role.STANDBY  # it may come back in another zone
    gpus = (state.primary, attempt.host)
    if any(gpu is not None and gpu.provider_id == provider_id for gpu in gpus):
        return Role.GPU
    return Role.GPU if attempt.host is None and label == attempt.label else None
