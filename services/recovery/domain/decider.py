"""What follows from an event. Everything that decides is here, and in ``deadlines`` for time.

    decide(state, event, context) -> events    what follows; ``state`` already includes ``event``

Pure and idempotent: what already holds is not decided again. A refusal is an event too, with a
reason that a person can read.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from zlib import crc32

from services.recovery.domain import freshness, mortality, requests
from services.recovery.domain.halts import Halt, halted
from services.recovery.domain.labels import gpu_label
from services.recovery.domain.spending import breach
from services.recovery.domain.state import Phase, Serving, State, Step
from shared.events import Event
from shared.events.health import ThresholdReached
from shared.events.recovery import (
    FailbackStarted,
    FailbackVerified,
    FailoverCompleted,
    FailoverRefused,
    OfferSelected,
    ProvisionFailed,
    ProvisionRequested,
    RecoveryCompleted,
    RecoveryStarted,
    SpendLimitReached,
    StandbyLost,
    StandbyRestored,
    SyncResumed,
    WaitEnded,
    WaitScheduled,
    WorkspaceRegistered,
    WorkspaceResumed,
)
from shared.events.requests import RequestReceived
from shared.events.sync import RestoreDone, RestoreFailed, SyncCompleted
from shared.machines import Role

MISSES_WITHOUT_WAIT = 2
RESTORE_FAILURES_MAX = 3
JITTER = 0.2
RECHECK_SECONDS_MIN = 1.0
"""A refused failover is looked at again after the health interval, but not faster than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a decision may know beside the state: the time and this installation's own names."""

    now: datetime
    installation: str = "dumont"
    free_port: int | None = None
    """An endpoint port that no workspace holds, for a registration."""


def decide(state: State, event: Event, context: Context) -> tuple[Event, ...]:
    """What follows from ``event``. A removed workspace only answers requests."""
    now = context.now
    if state.phase is Phase.REMOVED and not isinstance(event, RequestReceived):
        return ()
    match event:
        case RequestReceived():
            return requests.answer(
                state,
                event,
                now=now,
                free_port=context.free_port,
                limitation=lambda data_loss_allowed: failover_limitation(
                    state, now=now, asked=True, data_loss_allowed=data_loss_allowed
                ),
            )
        case WorkspaceRegistered() if state.standby.label is None:
            return (mortality.request_standby(state, context.installation),)
        case WaitEnded(role=Role.STANDBY) | StandbyLost() | StandbyRestored():
            news = event.epoch == state.epoch
            return mortality.after_loss(state, context.installation) if news else ()
        case ProvisionFailed(role=Role.STANDBY) if _is_the_last_standby_attempt(state, event):
            return (_wait(state, now, state.standby.attempt, event),)
        case ThresholdReached(role=Role.GPU):
            return _gpu_suspected(state, now)
        case FailoverCompleted() if state.phase is Phase.ON_STANDBY:
            return _start_recovery(state, now, "the GPU was lost")
        case WorkspaceResumed() if state.phase is Phase.ON_STANDBY:
            return _start_recovery(state, now, "automatic recovery is on again")
        case SyncCompleted() if mortality.holds(state, event):
            return _synced(state, now)
        case OfferSelected(attempt=n) if n == state.attempt.number and _searching(state):
            return _rent(state, event, context)
        case ProvisionFailed(role=Role.GPU):
            return _after_a_miss(state, event, now)
        case RestoreDone() | RestoreFailed() if event.epoch == state.epoch:
            return _after_a_pass(state, event, now)
        case _:
            return ()


def _rent(state: State, event: OfferSelected, context: Context) -> tuple[Event, ...]:
    """Rent what was chosen, unless enough money was spent."""
    name, epoch, now = state.workspace, state.epoch, context.now
    if reached := breach(state, now):
        told = SpendLimitReached(
            workspace=name,
            epoch=epoch,
            window=reached.window,
            spent=reached.spent,
            maximum=reached.maximum,
        )
        if reached.window == "incident":
            hint = (
                "look in the timeline why the GPUs did not last, then 'dumont recover NAME' allows "
                "as much once more"
            )
            return (told, halted(state, Halt.SPENDING, str(reached), hint))
        wait = WaitScheduled(
            workspace=name,
            epoch=epoch,
            role=Role.GPU,
            attempt=event.attempt,
            until=now + timedelta(seconds=state.policy.search_wait_max),
            reason=str(reached),
        )
        return (wait,) if state.spend_told == reached.window else (told, wait)
    return (
        ProvisionRequested(
            workspace=name,
            epoch=epoch,
            role=Role.GPU,
            attempt=event.attempt,
            label=gpu_label(context.installation, state),
            offer=event.offer,
            bid=event.bid,
            deadline=now + timedelta(seconds=state.policy.ssh_timeout),
        ),
    )


def _searching(state: State) -> bool:
    return state.phase is Phase.RECOVERING and state.step is Step.SEARCHING


def _is_the_last_standby_attempt(state: State, failed: ProvisionFailed) -> bool:
    return failed.epoch == state.epoch and failed.attempt == state.standby.attempt - 1


def _gpu_suspected(state: State, now: datetime) -> tuple[Event, ...]:
    suspicion = state.suspicion
    if suspicion is None or suspicion.recheck_at is not None or state.phase is Phase.HALTED:
        return ()
    if mortality.look_without_copy(state):
        return ()  # ConfirmDeath is owed now
    if reason := failover_limitation(state, now=now):
        return (refuse(state, now, reason),)
    return ()  # as above


def refuse(state: State, now: datetime, reason: str) -> Event:
    assert state.suspicion is not None
    wait = max(state.policy.health_interval, RECHECK_SECONDS_MIN)
    return FailoverRefused(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=state.suspicion.machine,
        reason=reason,
        recheck_at=now + timedelta(seconds=wait),
        hint=_remedy(state, now),
    )


def _remedy(state: State, now: datetime) -> str:
    """What a person may do where nothing changes by itself; empty where it does."""
    if mortality.only_on_the_gpu(state):
        return mortality.only_copy_hint(state, state.primary)
    return freshness.remedy(state) if freshness.staleness(state, now) else ""


def failover_limitation(
    state: State, *, now: datetime, asked: bool = False, data_loss_allowed: bool = False
) -> str | None:
    """Why we may not fail over now, in words for the timeline; None if we may.

    ``asked``: a person asked for it, so the automatic brakes do not count;
    ``data_loss_allowed``: that person knows that the copy is old.
    """
    standby = state.standby
    if state.phase is not Phase.SYNCING:
        return f"the workspace is {state.phase}: there is no protected GPU to fail over from"
    if standby.host is None or standby.lost:
        why = standby.lost or "it is not provisioned yet"
        return f"there is no standby to fail over to: {why}"
    if not state.generation:
        return "the standby holds no sealed generation yet"
    if not data_loss_allowed and (stale := freshness.staleness(state, now)):
        return stale
    if asked:
        return None
    if state.paused:
        return "automatic failover is paused"
    if not state.policy.auto_failover:
        return "the policy has auto_failover off"
    if state.primary_since is not None:
        served = (now - state.primary_since).total_seconds()
        if served < state.policy.cooldown:
            return f"failed back {served:.0f} s ago; the cooldown is {state.policy.cooldown:.0f} s"
    return None


def _start_recovery(state: State, now: datetime, reason: str) -> tuple[Event, ...]:
    if state.paused or not state.policy.auto_recovery or not state.complete:
        return ()
    return (
        RecoveryStarted(
            workspace=state.workspace, epoch=state.epoch, reason=reason, started_at=now
        ),
    )


def _synced(state: State, now: datetime) -> tuple[Event, ...]:
    if state.phase is Phase.SYNCING and state.resume_owed:
        assert state.primary is not None
        name, epoch = state.workspace, state.epoch
        return (
            SyncResumed(workspace=name, epoch=epoch, generation=state.generation),
            RecoveryCompleted(
                workspace=name,
                epoch=epoch,
                machine=state.primary.id,
                attempts=state.attempt.number,
            ),
        )
    first_start = state.epoch == 0 and state.phase is Phase.ON_STANDBY
    if first_start and state.serving is Serving.STANDBY and 0 < state.seal <= state.sealed:
        return _start_recovery(state, now, "the first generation is sealed and a GPU is wanted")
    return ()


def _wait(state: State, now: datetime, attempt: int, failed: ProvisionFailed) -> Event:
    role = failed.role
    misses = attempt - 1 if role is Role.STANDBY else state.misses
    seconds = grown(state, misses - state.policy.search_retries)
    return WaitScheduled(
        workspace=state.workspace,
        epoch=state.epoch,
        role=role,
        attempt=attempt,
        until=now + timedelta(seconds=seconds),
        reason=failed.reason,
        hint=failed.hint,
    )


def grown(state: State, doublings: int) -> float:
    """A wait in seconds that doubles up to the policy's longest.

    The longer ones are cut by up to a fifth, by the workspace and the attempt, so that those that
    were lost together do not all ask together for ever.
    """
    policy = state.policy
    factor = float(2 ** max(0, min(doublings, 16)))
    seconds = min(policy.search_retry_wait * factor, policy.search_wait_max)
    if doublings <= 0:
        return seconds
    key = f"{state.workspace}/{state.epoch}/{state.attempt.number}/{state.standby.attempt}"
    return seconds * (1 - JITTER * crc32(key.encode()) / 2**32)


def _after_a_miss(state: State, event: ProvisionFailed, now: datetime) -> tuple[Event, ...]:
    if not _searching(state) or event.attempt != state.attempt.number - 1:
        return ()
    if event.stage == "credentials":
        hint = event.hint or "check the provider's key, then: dumont recover NAME"
        return (halted(state, Halt.CREDENTIALS, event.reason, hint),)
    if event.stage != "search" and state.misses <= MISSES_WITHOUT_WAIT:
        return ()  # another offer may do at once
    return (_wait(state, now, state.attempt.number, event),)


def _after_a_pass(
    state: State, event: RestoreDone | RestoreFailed, now: datetime
) -> tuple[Event, ...]:
    attempt = state.attempt
    if event.attempt != attempt.number or attempt.host is None:
        return ()
    if isinstance(event, RestoreFailed):
        given_up = event.candidate_lost or attempt.failures >= RESTORE_FAILURES_MAX
        return (attempt_failed(state, "restore", event.reason),) if given_up else ()
    if event.final:
        if state.step is not Step.LAST_DELTA or event.round != attempt.round:
            return ()  # a last pass of an earlier freeze: people have written since
        return (
            FailbackVerified(
                workspace=state.workspace,
                epoch=state.epoch + 1,
                machine=attempt.host.id,
                generation=event.generation,
                switch_deadline=now + timedelta(seconds=state.policy.freeze_timeout),
            ),
        )
    return freeze_if_converged(state, now)


def freeze_if_converged(state: State, now: datetime) -> tuple[Event, ...]:
    attempt = state.attempt
    waiting = state.wait_until is not None and now < state.wait_until
    if state.step is not Step.RESTORING or not attempt.converged or waiting:
        return ()
    if attempt.host is None or state.standby.thaw_owed or state.standby.lost:
        return ()
    return (
        FailbackStarted(
            workspace=state.workspace,
            epoch=state.epoch,
            machine=attempt.host.id,
            attempt=attempt.number,
            freeze_deadline=now + timedelta(seconds=state.policy.freeze_timeout),
        ),
    )


def attempt_failed(state: State, stage: str, reason: str) -> Event:
    return ProvisionFailed(
        workspace=state.workspace,
        epoch=state.epoch,
        role=Role.GPU,
        attempt=state.attempt.number,
        stage=stage,
        reason=reason,
        market_machine=state.attempt.market_machine,
    )
