"""The state that people are shown, as a fold of the log."""

from datetime import timedelta

import pytest

from services.api.domain import wording
from services.api.domain.projections import as_json, evolve, fold
from services.api.domain.views import Billing, Phase, Step, WorkspaceView
from services.api.schemas import WorkspaceShown
from shared.events import EVENTS
from shared.events.health import HealthRestored
from shared.events.recovery import (
    FailbackAborted,
    FailbackStarted,
    FailoverCompleted,
    FailoverRefused,
    FailoverStarted,
    GpuProvisioned,
    OrphanDestroyed,
    PrimaryFenced,
    ProvisionFailed,
    ProvisionRequested,
    RecoveryCompleted,
    RecoveryHalted,
    RequestAccepted,
    StandbyLost,
    StandbyRestored,
    StandbyStale,
    WaitEnded,
    WaitScheduled,
    WorkspacePaused,
    WorkspaceRemoved,
    WorkspaceResumed,
    ZombieSeen,
)
from shared.events.sync import GenerationConfirmed, GenerationHeld, SyncCompleted, SyncFailed
from shared.machines import Role
from tests.support.faults import fault
from tests.unit.api.tale import ADOPTED, STANDBY, Tale, gpu


def state(tale: Tale) -> WorkspaceView:
    view = fold(tale.told)
    assert view is not None
    return view


def phases(tale: Tale) -> list[str]:
    """Each phase and step as it changes."""
    seen: list[str] = []
    view = None
    for envelope in tale.told:
        view = evolve(view, envelope)
        assert view is not None
        now = view.phase.value + (f": {view.step.value}" if view.step else "")
        if not seen or seen[-1] != now:
            seen.append(now)
    return seen


def test_a_first_start_goes_from_the_standby_over_a_recovery_to_syncing() -> None:
    assert phases(Tale().protected()) == [
        "ON_STANDBY: provisioning standby",
        "ON_STANDBY",
        "RECOVERING: searching",
        "RECOVERING: provisioning",
        "RECOVERING: waiting for SSH",
        "RECOVERING: restoring",
        "RECOVERING: verifying",
        "RECOVERING: restoring",
        "FAILING_BACK: freezing the standby",
        "FAILING_BACK: sending the last delta",
        "FAILING_BACK: verifying",
        "FAILING_BACK: switching the endpoint",
        "SYNCING: waiting for the first sync",
        "SYNCING",
    ]


def test_a_lost_gpu_leads_over_a_failover_to_the_standby() -> None:
    tale = Tale().protected().lost()
    assert phases(tale)[-2:] == ["FAILING_OVER", "ON_STANDBY"]
    view = state(tale)
    assert view.epoch == 2
    assert view.primary is not None and view.primary.host == STANDBY
    assert view.failover is not None and view.failover.seconds == 1.2


def test_an_adopted_gpu_is_seeding_until_its_first_generation_is_sealed() -> None:
    tale = Tale().registered(origin="adopted", adopted=ADOPTED).standby_up()
    assert (state(tale).phase, state(tale).step) == (Phase.SEEDING, Step.FIRST_COPY)
    assert state(tale).serving is Role.GPU
    tale.synced(source=ADOPTED.id)
    assert state(tale).phase is Phase.SYNCING


def test_an_uploaded_workspace_waits_for_its_data() -> None:
    tale = Tale().registered(origin="uploaded").standby_up()
    assert state(tale).step is Step.AWAITING_UPLOAD
    tale.tell(RequestAccepted, verb="uploaded")
    assert state(tale).step is None


def test_the_failure_counter_of_the_primary_is_shown_with_its_threshold() -> None:
    tale = Tale().protected()
    tale.tell(EVENTS["HealthFailed"], machine=gpu().id, failures=2)
    shown = as_json(state(tale), tale.now)
    assert (shown["failures"], shown["threshold"]) == (2, 3)
    assert shown["primary"]["status"] == "failing (2 of 3)"
    tale.tell(HealthRestored, machine=gpu().id)
    assert as_json(state(tale), tale.now)["failures"] == 0


def test_a_failed_sync_does_not_raise_the_sync_count() -> None:
    tale = Tale().protected()
    before = state(tale).sync_count
    tale.tell(SyncFailed)
    assert state(tale).sync_count == before
    tale.synced(sequence=3, source=gpu().id)
    assert state(tale).sync_count == before + 1


def test_recovering_shows_the_attempt_the_last_failure_and_the_next_try() -> None:
    tale = Tale().protected().lost().searching().rented(attempt=2)
    tale.tell(ProvisionFailed, attempt=2, reason="no SSH within 300 s")
    wait = tale.tell(WaitScheduled, attempt=3)
    shown = as_json(state(tale), tale.now)["recovery"]
    assert (shown["attempt"], shown["attempts"]) == (2, 10)
    assert shown["last_failure"]["reason"] == "no SSH within 300 s"
    assert isinstance(wait.event, WaitScheduled)
    assert shown["next_attempt_at"] == wording.iso(wait.event.until)
    assert shown["step"] == Step.WAITING
    tale.tell(WaitEnded, attempt=3)
    assert as_json(state(tale), tale.now)["recovery"]["step"] == Step.SEARCHING


def test_a_restore_under_way_shows_bytes_and_percent() -> None:
    tale = Tale().registered().standby_up().synced().searching().rented()
    tale.tell(EVENTS["GpuReady"])
    assert as_json(state(tale), tale.now)["recovery"]["progress"] is None
    tale.tell(EVENTS["RestoreProgressed"], bytes_done=25, bytes_total=200)
    progress = as_json(state(tale), tale.now)["recovery"]["progress"]
    assert progress == {"bytes_done": 25, "bytes_total": 200, "percent": 12.5}


def test_an_aborted_failback_is_a_recovery_again() -> None:
    tale = Tale().registered().standby_up().synced().searching().rented().restored()
    tale.tell(FailbackStarted)
    tale.tell(FailbackAborted)
    view = state(tale)
    assert (view.phase, view.step) == (Phase.RECOVERING, Step.RESTORING)
    assert view.epoch == 0


def test_a_halt_says_why_and_what_to_do_until_somebody_recovers() -> None:
    tale = Tale().protected().lost().searching()
    tale.tell(RecoveryHalted)
    shown = as_json(state(tale), tale.now)
    assert shown["phase"] == "HALTED"
    assert shown["halted"]["reason"] == "the key is not accepted"
    assert shown["next"] == "set another key"
    tale.searching()
    assert state(tale).phase is Phase.RECOVERING
    assert state(tale).halted is None


def test_late_events_of_an_older_epoch_change_nothing() -> None:
    tale = Tale().protected().lost()
    before = state(tale)
    for kind in (SyncCompleted, SyncFailed, StandbyLost, RecoveryHalted, WaitScheduled):
        tale.tell(kind, epoch=tale.epoch - 1)
    after = state(tale)
    assert after.position == before.position + 5
    unchanged = ("phase", "step", "epoch", "sync_count", "last_generation", "standby_lost")
    assert all(getattr(after, name) == getattr(before, name) for name in unchanged)


def test_events_of_an_epoch_that_never_was_change_nothing() -> None:
    tale = Tale().protected()
    tale.tell(EVENTS["FailoverStarted"], epoch=tale.epoch + 5)
    assert state(tale).phase is Phase.SYNCING


def test_no_event_raises_in_any_state() -> None:
    whole = Tale().protected().lost().searching().rented(2).restored(2).failed_back(2)
    for length in range(len(whole.told) + 1):
        view = fold(whole.told[:length])
        for kind in EVENTS.values():
            other = Tale(first=len(whole.told) + 1)
            other.epoch = view.epoch if view else 0
            evolved = evolve(view, other.tell(kind))
            if evolved is not None:
                as_json(evolved, whole.now)


def test_every_state_of_a_life_has_the_documented_shape() -> None:
    whole = Tale().protected().lost().searching().rented(2).restored(2).failed_back(2)
    for length in range(1, len(whole.told) + 1):
        view = fold(whole.told[:length])
        assert view is not None
        WorkspaceShown.model_validate(as_json(view, whole.now))


# --- what would be lost --------------------------------------------------------------------------


def test_the_lag_is_computed_when_it_is_read() -> None:
    tale = Tale().protected()
    tale.wait(9)
    tale.synced(sequence=3, source=gpu().id, bytes_changed=1_000)
    lag = as_json(state(tale), tale.now + timedelta(seconds=5))["lag"]
    assert lag["seconds"] == 5
    assert lag["bytes"] == pytest.approx(417, abs=1)  # 1,000 bytes in the 12 s before
    assert lag["text"] == "if the GPU died now: at most the last 5 s of changes, about 417 B " + (
        "at the last rate"
    )


def test_while_the_standby_serves_there_is_no_lag_but_only_one_copy() -> None:
    lag = as_json(state(Tale().protected().lost()), Tale().now)["lag"]
    assert lag["seconds"] is None
    assert "only copy" in lag["text"]


# --- beside the phase ----------------------------------------------------------------------------


def test_a_pause_stands_beside_the_phase() -> None:
    tale = Tale().protected()
    tale.tell(WorkspacePaused, reason="maintenance")
    shown = as_json(state(tale), tale.now)
    assert (shown["phase"], shown["paused"], shown["paused_reason"]) == (
        "SYNCING",
        True,
        "maintenance",
    )
    tale.tell(WorkspaceResumed)
    assert as_json(state(tale), tale.now)["paused"] is False


def test_a_lost_standby_degrades_until_a_new_generation_is_sealed() -> None:
    tale = Tale().protected()
    tale.tell(StandbyLost)
    assert state(tale).degraded == "the standby is lost: preempted"
    tale.tell(StandbyRestored)
    assert state(tale).degraded == "the standby is back and is being seeded"
    tale.synced(sequence=3, source=gpu().id)
    assert state(tale).degraded is None


def test_a_held_copy_degrades_and_says_how_to_accept_it() -> None:
    tale = Tale().protected()
    tale.tell(GenerationHeld)
    shown = as_json(state(tale), tale.now)
    assert shown["degraded"]
    assert "dumont accept train" in shown["next"]


def test_syncs_that_keep_failing_degrade() -> None:
    tale = Tale().protected()
    for _ in range(3):
        tale.tell(SyncFailed)
    assert state(tale).degraded == "3 syncs in a row failed: rsync ended with 12"


def test_a_stale_copy_degrades_until_sync_finds_nothing_new_or_seals_it() -> None:
    tale = Tale().protected()
    tale.tell(StandbyStale, hint="see why nothing is sealed")
    shown = as_json(state(tale), tale.now)
    assert shown["degraded_reason"].startswith("the copy is stale: the newest copy is 2400 s old")
    assert shown["next"] == "see why nothing is sealed"
    newest = state(tale).last_generation
    assert newest is not None
    tale.tell(GenerationConfirmed, generation=newest.id)
    assert state(tale).degraded is None


def test_what_would_be_lost_counts_from_the_last_time_the_copy_was_found_equal() -> None:
    tale = Tale().protected()
    tale.wait(600)
    newest = state(tale).last_generation
    assert newest is not None
    tale.tell(GenerationConfirmed, generation=newest.id, taken_at=tale.now)
    assert as_json(state(tale), tale.after(5))["lag"]["seconds"] == 6.0


def test_a_failover_that_is_refused_with_a_hint_is_a_degraded_state_with_something_to_do() -> None:
    tale = Tale().protected()
    tale.tell(FailoverRefused, hint="dumont failover train --allow-data-loss")
    shown = as_json(state(tale), tale.now)
    assert shown["degraded_reason"] == "no failover: automatic failover is paused"
    assert shown["next"] == "dumont failover train --allow-data-loss"
    tale.tell(HealthRestored)
    assert state(tale).degraded is None


def test_a_standby_that_is_gone_while_it_served_serves_nobody_and_is_not_billed() -> None:
    tale = Tale().protected()
    tale.epoch += 1
    tale.tell(FailoverStarted)
    tale.tell(FailoverCompleted)
    tale.tell(StandbyLost, gone=True)
    shown = as_json(state(tale), tale.now)
    assert (shown["serving"], shown["primary"]) == (None, None)
    assert STANDBY.id not in billing(tale)


def test_a_refused_failover_says_when_we_look_again() -> None:
    tale = Tale().protected()
    tale.tell(FailoverRefused)
    refused = as_json(state(tale), tale.now)["refused"]
    assert refused["reason"] == "automatic failover is paused"
    assert refused["recheck_at"] is not None


# --- what is billed ------------------------------------------------------------------------------


def billing(tale: Tale) -> dict[str, Billing]:
    return {str(k): m.billing for k, m in state(tale).billed.items()}


def test_a_machine_is_billed_from_the_intent_to_rent_it() -> None:
    tale = Tale().registered().standby_up().synced().searching()
    tale.tell(ProvisionRequested, label=gpu().id)
    assert billing(tale)[gpu().id] is Billing.REQUESTED
    tale.tell(GpuProvisioned)
    assert billing(tale)[gpu().id] is Billing.RUNNING
    assert as_json(state(tale), tale.now)["price_per_hour"] == pytest.approx(0.33)


def test_a_failed_attempt_owes_its_machine_an_end_until_that_is_seen() -> None:
    tale = Tale().registered().standby_up().synced().searching().rented()
    tale.tell(ProvisionFailed)
    assert billing(tale)[gpu().id] is Billing.ENDING
    tale.tell(OrphanDestroyed)
    assert gpu().id not in billing(tale)


def test_a_rental_that_is_confirmed_after_its_attempt_ended_is_still_billed() -> None:
    tale = Tale().registered().standby_up().synced().searching()
    tale.tell(ProvisionRequested, label=gpu().id)
    tale.tell(ProvisionFailed, stage="rent")
    tale.tell(GpuProvisioned)
    view = state(tale)
    assert view.billed[gpu().id].billing is Billing.ENDING
    assert view.billed[gpu().id].provider_id == "1001"
    assert view.step is Step.SEARCHING


def test_a_lost_gpu_is_stopped_then_destroyed_when_the_recovery_is_complete() -> None:
    tale = Tale().protected().lost()
    assert billing(tale)[gpu().id] is Billing.ENDING
    tale.tell(PrimaryFenced, how="stopped")
    assert billing(tale)[gpu().id] is Billing.STOPPED
    tale.tell(RecoveryCompleted)
    assert billing(tale)[gpu().id] is Billing.ENDING
    tale.tell(PrimaryFenced, how="destroyed")
    assert gpu().id not in billing(tale)


def test_a_zombie_is_billed_until_it_is_seen_gone() -> None:
    tale = Tale().protected()
    tale.tell(ZombieSeen, machine="dumont-train-e9-a9", provider_id="9")
    assert billing(tale)["dumont-train-e9-a9"] is Billing.ENDING
    tale.tell(OrphanDestroyed, machine="dumont-train-e9-a9", provider_id="9")
    assert "dumont-train-e9-a9" not in billing(tale)


def doubled(tale: Tale) -> float:
    return float(as_json(state(tale), tale.now)["double_billed_seconds"])


def test_a_lost_gpu_that_was_seen_stopped_is_not_billed_beside_the_new_one() -> None:
    tale = Tale().protected().lost()
    tale.tell(PrimaryFenced, how="stopped")
    tale.searching().rented().restored().failed_back().resumed()
    assert doubled(tale) == 0


@fault(70)
def test_the_seconds_with_two_gpus_billed_are_counted_while_it_lasts_and_kept_afterwards() -> None:
    tale = Tale().protected()
    tale.tell(ZombieSeen, machine="dumont-train-e9-a9", provider_id="9")
    since = tale.now
    tale.now = tale.after(60)
    assert doubled(tale) == pytest.approx(60, abs=2)
    tale.tell(OrphanDestroyed, machine="dumont-train-e9-a9", provider_id="9")
    lasted = (tale.now - since).total_seconds()
    tale.now = tale.after(3600)
    assert doubled(tale) == pytest.approx(lasted, abs=2)


def test_a_host_of_the_users_own_is_never_billed() -> None:
    tale = Tale().registered(origin="adopted", adopted=ADOPTED).standby_up()
    assert list(billing(tale)) == [STANDBY.id]


def test_a_removed_workspace_owes_all_that_it_rented_an_end() -> None:
    tale = Tale().protected()
    tale.tell(WorkspaceRemoved)
    assert state(tale).phase is Phase.REMOVED
    assert set(billing(tale).values()) == {Billing.ENDING}
    tale.tell(PrimaryFenced, how="destroyed")
    assert list(billing(tale)) == [STANDBY.id]
