"""How events change an attempt: from the search of a GPU to the failback."""

from services.recovery.domain import renewal
from services.recovery.domain.fencing import attempt_ended
from services.recovery.domain.state import Attempt, Phase, Serving, State, Step
from shared.changing import replace
from shared.events.recovery import (
    FailbackAborted,
    FailbackCompleted,
    GpuProvisioned,
    GpuReady,
    OfferSelected,
    ProvisionFailed,
    ProvisionRequested,
)
from shared.events.sync import RestoreDone, RestoreFailed

STALLED_SHARE = 0.8
"""A round that takes more of its predecessor's time than this does not get shorter any more."""
FREEZE_SHARE = 1 / 3
"""A round may take so much of ``freeze_timeout``; the freeze and a seal take of the rest."""


def attempt_failed(state: State, event: ProvisionFailed) -> State:
    if state.phase not in {Phase.RECOVERING, Phase.FAILING_BACK} or state.step is Step.SWITCHING:
        return state
    blamed = event.market_machine or state.attempt.market_machine
    return replace(
        attempt_ended(state),
        phase=Phase.RECOVERING,
        step=Step.SEARCHING,
        misses=state.misses + 1,
        wait_until=None,
        excluded=excluded(state, event, blamed),
    )


def excluded(state: State, event: ProvisionFailed, blamed: str) -> frozenset[str]:
    """Machines that failed are passed over, until there is nothing else left."""
    if event.stage == "search":
        return frozenset()
    return state.excluded | {blamed} if blamed else state.excluded


def provisioning(state: State, event: OfferSelected | ProvisionRequested | GpuProvisioned) -> State:
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
                    attempt, offer=event.offer, market_machine=event.market_machine, bid=event.bid
                ),
            )
        case ProvisionRequested():
            attempt = replace(attempt, label=event.label, deadline=event.deadline)
            return replace(state, step=Step.PROVISIONING, attempt=attempt)
        case GpuProvisioned():
            attempt = replace(attempt, host=event.host, deadline=event.ssh_deadline, words="")
            return replace(state, step=Step.WAITING_FOR_SSH, attempt=attempt)


def ready(state: State, event: GpuReady) -> State:
    if state.primary_adopted and state.primary and state.primary.id == event.host.id:
        state = renewal.scheduled(state, event.host.id, event.renew_at)
        return replace(state, primary=event.host, primary_ready=True)
    if event.attempt != state.attempt.number or state.step is not Step.WAITING_FOR_SSH:
        return state
    state = renewal.scheduled(state, event.host.id, event.renew_at)
    attempt = replace(state.attempt, host=event.host, deadline=event.restore_deadline, round=1)
    return replace(state, step=Step.RESTORING, attempt=attempt, seal=state.seal + 1)


def restored(state: State, event: RestoreDone | RestoreFailed) -> State:
    attempt = state.attempt
    if isinstance(event, RestoreFailed):
        if event.round != attempt.round:
            return state
        return replace(state, attempt=replace(attempt, failures=attempt.failures + 1))
    if event.final or event.round != attempt.round or state.step is not Step.RESTORING:
        return state
    if _converged(state, event.seconds):
        # No further round is owed: what is left goes with the last delta.
        return replace(state, attempt=replace(attempt, failures=0, converged=True))
    further = replace(attempt, round=attempt.round + 1, round_seconds=event.seconds, failures=0)
    return replace(state, seal=state.seal + 1, attempt=further)


def _converged(state: State, seconds: float) -> bool:
    """Whether a round of so many seconds is small, or as small as rounds get here.

    Connecting and comparing take their time on a slow machine or a large tree, however little
    was written since: such rounds would follow each other until the attempt runs out, and with
    the next GPU again.
    """
    policy, before = state.policy, state.attempt.round_seconds
    stalled = before > 0 and seconds >= before * STALLED_SHARE
    return seconds <= policy.freeze_bound or (
        stalled and seconds <= policy.freeze_timeout * FREEZE_SHARE
    )


def aborted(state: State, event: FailbackAborted) -> State:
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


def failed_back(state: State, event: FailbackCompleted) -> State:
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
