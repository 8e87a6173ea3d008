"""Given what happened, when this arrives, then that follows."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.recovery.domain import effects
from services.recovery.domain.deadlines import due
from services.recovery.domain.decider import Context, decide
from services.recovery.domain.evolution import evolve
from services.recovery.domain.labels import workspace_of
from services.recovery.domain.obligations import assignment, endpoint, pending
from services.recovery.domain.state import End, Phase, Serving, State, Step
from services.recovery.domain.sweep import zombie
from services.recovery.domain.world import Backend, Rental, RentalStatus
from shared.assignments import SyncMode
from shared.codec import to_data
from shared.events.health import HealthRestored, ThresholdReached
from shared.events.recovery import (
    FailoverCompleted,
    FailoverRefused,
    FailoverStarted,
    GpuReady,
    OrphanDestroyed,
    PrimaryFenced,
    ProvisionFailed,
    RecoveryCompleted,
    RecoveryHalted,
    RequestRefused,
    StandbyLost,
    StandbyProvisioned,
    WaitScheduled,
    ZombieSeen,
)
from shared.events.sync import RestoreFailed
from shared.machines import MachineId, Role
from tests.support.examples import STANDBY, START, WS, Story, gpu
from tests.support.faults import fault


def owed(state: State) -> set[type]:
    """What is owed to machines; what people are told is tried in test_notices."""
    return {type(effect) for effect in pending(state)} - {effects.SendNotice}


def mode(story: Story) -> SyncMode:
    return assignment(story.state, position=1, host_ca="", user_ca="").mode


def test_a_registration_asks_for_a_standby_before_anything_else() -> None:
    story = Story()
    story.ask("register", path="/workspace", origin="empty")
    assert story.names() == ["RequestReceived", "WorkspaceRegistered", "ProvisionRequested"]
    assert owed(story.state) == {effects.ProvisionStandby}


def test_the_first_start_is_an_ordinary_recovery_once_a_generation_is_sealed() -> None:
    story = Story().registered()
    assert story.state.serving is Serving.STANDBY
    story.sync()
    assert story.phase() is Phase.RECOVERING
    assert owed(story.state) == {effects.SearchOffers}


def test_an_uploaded_workspace_waits_for_its_upload() -> None:
    story = Story()
    story.ask("register", path="/workspace", origin="uploaded")
    story.tell(StandbyProvisioned(workspace=WS, epoch=0, attempt=1, host=STANDBY))
    assert mode(story) is SyncMode.IDLE, "half an upload is not worth a generation"
    story.ask("uploaded")
    assert mode(story) is SyncMode.SERVE
    story.sync(seal=0)  # begun before the upload was complete
    assert story.phase() is Phase.ON_STANDBY
    story.sync()
    assert story.phase() is Phase.RECOVERING


def test_the_label_is_written_before_the_machine_is_rented() -> None:
    story = Story().searching()
    story.offer()
    assert story.names()[-2:] == ["OfferSelected", "ProvisionRequested"]
    (rent,) = pending(story.state)
    assert isinstance(rent, effects.RentGpu)
    assert rent.label == "dumont-train-e0-a1"


def test_the_whole_way_back_to_a_gpu_ends_with_one_primary_and_a_higher_epoch() -> None:
    story = Story()
    host = story.syncing()
    assert story.phase() is Phase.SYNCING
    assert story.state.primary == host
    assert story.state.epoch == 1
    assert endpoint(story.state) == Backend(address=host.address, port=host.port)
    assert story.names()[-2:] == ["SyncResumed", "RecoveryCompleted"]
    assert owed(story.state) == set()


def test_a_slow_round_is_followed_by_another_and_a_fast_one_by_the_freeze() -> None:
    story = Story().searching()
    story.restoring()
    story.restore_done(seconds=60)
    assert (story.state.step, story.state.attempt.round) == (Step.RESTORING, 2)
    story.restore_done(seconds=1)
    assert story.state.step is Step.FREEZING
    assert endpoint(story.state) is None


def test_rounds_that_do_not_get_shorter_are_followed_by_the_freeze_if_it_can_hold_one() -> None:
    story = Story().searching()
    story.restoring()
    for seconds in (60, 12):
        story.restore_done(seconds=seconds)
        assert story.state.step is Step.RESTORING, "the next may be shorter"
    story.restore_done(seconds=12)
    assert story.state.step is Step.FREEZING, "it is the looking that takes so long"


def test_rounds_that_a_freeze_could_not_hold_go_on() -> None:
    story = Story().searching()
    story.restoring()
    for _ in range(3):
        story.restore_done(seconds=40)
    assert (story.state.step, story.state.attempt.round) == (Step.RESTORING, 4)


def test_the_last_delta_is_sent_only_after_the_standby_is_frozen() -> None:
    story = Story().searching()
    story.restoring()
    story.restore_done()
    assert mode(story) is SyncMode.IDLE
    seal = story.state.seal
    story.frozen()
    assert mode(story) is SyncMode.FINAL
    assert story.state.seal == seal + 1


def test_a_freeze_that_takes_too_long_lets_people_write_again() -> None:
    story = Story().searching()
    story.restoring()
    story.restore_done()
    assert [e.type for e in story.wait(61)] == ["FailbackAborted"]
    assert story.phase() is Phase.RECOVERING
    assert effects.ThawStandby in owed(story.state)


def test_a_threshold_owes_a_look_of_our_own_before_anything_is_fenced() -> None:
    story = Story()
    host = story.syncing()
    assert story.suspect(host) == []
    assert owed(story.state) == {effects.ConfirmDeath}
    assert story.state.epoch == 1


def test_a_threshold_within_the_cooldown_is_refused_and_looked_at_again() -> None:
    story = Story()
    host = story.syncing()
    story.now -= timedelta(seconds=55)
    (refused,) = story.suspect(host)
    assert isinstance(refused, FailoverRefused)
    assert refused.reason == "failed back 5 s ago; the cooldown is 30 s"
    assert owed(story.state) == set()
    story.wait(11)
    story.wait(30)
    assert owed(story.state) == {effects.ConfirmDeath}


def test_a_gpu_that_answers_again_is_no_longer_suspected() -> None:
    story = Story()
    host = story.syncing()
    story.suspect(host)
    story.tell(
        HealthRestored(workspace=WS, epoch=1, machine=host.id, role=Role.GPU, failures_before=3)
    )
    assert owed(story.state) == set()


def test_a_failover_fences_the_old_gpu_and_starts_a_recovery() -> None:
    story = Story()
    host = story.syncing()
    story.failover(host)
    assert story.phase() is Phase.RECOVERING
    assert story.state.epoch == 2
    assert endpoint(story.state) == Backend(address=STANDBY.address, port=STANDBY.port)
    assert owed(story.state) == {effects.Fence}, "two GPUs are never paid for at once"
    assert [c.end for c in story.state.condemned] == [End.STOP]


@fault(71)
def test_without_a_standby_a_failover_is_refused_with_a_reason() -> None:
    story = Story()
    host = story.syncing()
    story.tell(StandbyLost(workspace=WS, epoch=1, machine=STANDBY.id, reason="preempted"))
    (refused,) = story.suspect(host)
    assert isinstance(refused, FailoverRefused)
    assert "no standby to fail over to: preempted" in refused.reason
    assert effects.ProvisionStandby in owed(story.state)


def test_a_paused_workspace_does_not_fail_over_by_itself_but_does_when_asked() -> None:
    story = Story()
    host = story.syncing()
    story.ask("pause")
    (refused,) = story.suspect(host)
    assert isinstance(refused, FailoverRefused)
    follows = story.ask("failover", reason="maintenance")
    assert [e.type for e in follows] == ["FailoverStarted"]


@fault(28)
def test_a_late_answer_of_an_older_epoch_changes_nothing() -> None:
    story = Story()
    host = story.syncing()
    story.failover(host)
    before = story.state
    late = FailoverCompleted(workspace=WS, epoch=1, standby=STANDBY.id, generation="x", seconds=1.0)
    assert story.tell(late) == []
    assert story.state == before


@fault(64)
def test_a_lost_candidate_ends_the_attempt_and_not_the_recovery() -> None:
    story = Story().searching()
    host = story.restoring()
    story.tell(
        RestoreFailed(
            workspace=WS,
            epoch=0,
            machine=host.id,
            attempt=1,
            round=1,
            reason="connection lost",
            candidate_lost=True,
        )
    )
    assert story.state.step is Step.SEARCHING
    assert story.state.attempt.number == 2
    assert [c.provider_id for c in story.state.condemned] == [host.provider_id]
    assert owed(story.state) == {effects.Fence}, "two GPUs are never paid for at once"


@fault(8, 63)
def test_ssh_that_never_comes_ends_the_attempt_at_its_deadline_and_destroys_the_machine() -> None:
    story = Story().searching()
    story.rented()
    (failed,) = story.wait(301)
    assert isinstance(failed, ProvisionFailed)
    assert failed.stage == "ssh"
    assert owed(story.state) == {effects.Fence}, "two GPUs are never paid for at once"
    assert story.state.excluded == {"m1"}


@fault(61, 66)
def test_an_empty_market_is_asked_again_with_a_growing_wait_without_end() -> None:
    story = Story().searching()
    waits = []
    for _ in range(14):
        follows = story.tell(
            ProvisionFailed(
                workspace=WS,
                epoch=0,
                role=Role.GPU,
                attempt=story.state.attempt.number,
                stage="search",
                reason="none of 0 offers fits",
            )
        )
        (wait,) = follows
        assert isinstance(wait, WaitScheduled)
        waits.append((wait.until - story.now).total_seconds())
        assert owed(story.state) == set()
        story.wait(waits[-1])
        assert owed(story.state) == {effects.SearchOffers}
    assert waits[:10] == [30.0] * 10
    for seconds, longest in zip(waits[10:], [60.0, 120.0, 240.0, 480.0], strict=True):
        assert 0.8 * longest <= seconds <= longest


@fault(67)
def test_a_refused_key_halts_with_a_hint_and_recover_starts_again() -> None:
    story = Story().searching()
    (halted,) = story.tell(
        ProvisionFailed(
            workspace=WS, epoch=0, role=Role.GPU, attempt=1, stage="credentials", reason="401"
        )
    )
    assert isinstance(halted, RecoveryHalted)
    assert halted.hint
    assert endpoint(story.state) is not None, "the standby goes on serving"
    story.ask("recover")
    assert owed(story.state) == {effects.SearchOffers}


@fault(64)
def test_a_gpu_lost_during_the_switch_brings_the_standby_back() -> None:
    story = Story().searching()
    host = story.restoring()
    story.restore_done()
    story.frozen()
    story.restore_done(final=True)
    assert story.state.step is Step.SWITCHING
    (started,) = story.wait(61)
    assert isinstance(started, FailoverStarted)
    assert story.state.epoch == 2
    assert owed(story.state) == {effects.PromoteStandby, effects.Fence}
    assert [c.provider_id for c in story.state.condemned] == [host.provider_id]


def test_an_adopted_gpu_is_the_source_and_is_never_destroyed() -> None:
    story = Story()
    adopted = gpu("mine", provider_id="7")
    host = to_data(GpuReady(workspace=WS, epoch=0, attempt=0, host=adopted, restore_deadline=START))
    story.ask("register", path="/workspace", origin="adopted", adopted=host["host"])
    assert story.phase() is Phase.SEEDING
    assert owed(story.state) == {effects.ProvisionStandby, effects.PrepareAdopted}
    assert mode(story) is SyncMode.IDLE
    story.tell(StandbyProvisioned(workspace=WS, epoch=0, attempt=1, host=STANDBY))
    story.tell(GpuReady(workspace=WS, epoch=0, attempt=0, host=adopted, restore_deadline=START))
    assert mode(story) is SyncMode.MIRROR
    story.suspect(adopted)
    (look,) = [e for e in pending(story.state) if isinstance(e, effects.ConfirmDeath)]
    assert look.alone, "nobody else has the data: there is nothing to fail over to"
    story.sync(adopted)
    assert story.phase() is Phase.SYNCING
    story.ask("remove")
    assert all(c.provider_id != "7" for c in story.state.condemned)


def test_what_was_only_stopped_is_destroyed_when_the_recovery_is_complete() -> None:
    story = Story()
    old = story.syncing()
    story.failover(old)
    story.tell(
        PrimaryFenced(
            workspace=WS, epoch=2, machine=old.id, provider_id=old.provider_id, how="stopped"
        )
    )
    assert effects.Fence not in owed(story.state)
    story.tell(RecoveryCompleted(workspace=WS, epoch=2, machine=old.id, attempts=1))
    assert [c.end for c in story.state.condemned] == [End.DESTROY]
    story.tell(
        PrimaryFenced(
            workspace=WS, epoch=2, machine=old.id, provider_id=old.provider_id, how="destroyed"
        )
    )
    assert story.state.condemned == ()


def rental(label: str, provider_id: str, status: RentalStatus = RentalStatus.RUNNING) -> Rental:
    return Rental(
        label=MachineId(label),
        provider="vast",
        provider_id=provider_id,
        status=status,
        address=None,
        port=None,
        price_per_hour=0.2,
    )


@fault(48)
def test_a_fenced_gpu_that_the_market_runs_again_is_a_zombie() -> None:
    story = Story()
    old = story.syncing()
    story.failover(old)
    found = rental(old.id, old.provider_id)
    assert zombie(story.state, found, story.now) is None, "its end is owed already"
    story.tell(
        PrimaryFenced(
            workspace=WS, epoch=2, machine=old.id, provider_id=old.provider_id, how="stopped"
        )
    )
    assert (
        zombie(story.state, rental(old.id, old.provider_id, RentalStatus.STOPPED), story.now)
        is None
    )
    seen = zombie(story.state, found, story.now)
    assert isinstance(seen, ZombieSeen)
    story.tell(seen)
    assert [c.end for c in story.state.condemned] == [End.DESTROY]
    assert zombie(story.state, found, story.now) is None


@fault(57)
def test_a_second_machine_with_our_label_is_an_orphan_and_the_rented_one_is_not() -> None:
    story = Story()
    host = story.syncing()
    assert zombie(story.state, rental(host.id, host.provider_id), story.now) is None
    twin = zombie(story.state, rental(host.id, "999"), story.now)
    assert twin is not None
    story.tell(twin)
    assert story.state.primary == host
    story.tell(
        OrphanDestroyed(
            workspace=WS, epoch=1, machine=host.id, provider_id="999", reason="an orphan"
        )
    )
    assert story.state.condemned == ()


@fault(69)
def test_the_label_names_its_workspace() -> None:
    assert workspace_of("dumont-train-e1-a2", "dumont") == "train"
    assert workspace_of("dumont-a-b-e1-e1-a2", "dumont") == "a-b-e1"
    assert workspace_of("dumont-a-standby-3", "dumont") == "a"
    assert workspace_of("dumont-train", "dumont") is None
    assert workspace_of("other-train-e1-a2", "dumont") is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"origin": "adopted"}, "does not fit"),
        ({"path": "workspace"}, "cannot be a workspace"),
        ({"path": "/etc"}, "cannot be a workspace"),
        ({"policy": {"gpu_price": 1}}, "unknown setting 'gpu_price'"),
        ({"policy": {"gpu_price_max": "cheap"}}, "give it a value"),
        ({"policy": {"sync_interval": -1}}, "must be greater than 0"),
        ({"policy": {"regions": ["Europe"]}}, "two-letter code"),
    ],
)
def test_a_registration_that_makes_no_sense_is_refused_with_words(
    arguments: dict[str, object], words: str
) -> None:
    story = Story()
    (refused,) = story.ask("register", **arguments)
    assert isinstance(refused, RequestRefused)
    assert words in refused.reason + refused.hint
    assert story.phase() is Phase.UNREGISTERED


def test_a_request_for_a_workspace_that_is_not_there_is_refused() -> None:
    (refused,) = Story().ask("failover")
    assert isinstance(refused, RequestRefused)
    assert "no workspace 'train'" in refused.reason


def test_a_removed_workspace_owes_the_end_of_its_machines() -> None:
    story = Story()
    host = story.syncing()
    story.ask("remove")
    assert {c.machine for c in story.state.condemned} == {host.id, STANDBY.id}
    assert all(c.end is End.DESTROY for c in story.state.condemned)
    assert endpoint(story.state) is None


def test_a_removed_workspace_has_no_deadlines_and_no_waits() -> None:
    story = Story()
    story.ask("register", path="/workspace", origin="empty")
    story.tell(
        ProvisionFailed(
            workspace=WS, epoch=0, role=Role.STANDBY, attempt=1, stage="prepare", reason="no room"
        )
    )
    story.ask("remove")
    assert story.wait(3600) == []


# --- whatever happens


def chapters() -> list[State]:
    """A state of every phase and step."""
    states = []
    for told in range(1, 60):
        story = Story()
        host = story.syncing()
        story.failover(host)
        story.restoring()
        story.sync()
        story.restore_done()
        story.frozen()
        story.restore_done(final=True)
        again = Story()
        for event in story.told[:told]:
            again.state = evolve(again.state, event)
        states.append(again.state)
    return states


@pytest.mark.parametrize("state", chapters(), ids=lambda s: f"{s.phase}-{s.step or 'none'}")
def test_every_phase_owes_an_effect_or_a_timer_or_waits_for_sync(state: State) -> None:
    restful = {Phase.UNREGISTERED, Phase.SYNCING, Phase.HALTED, Phase.REMOVED}
    a = assignment(state, position=1, host_ca="", user_ca="")
    timers = (state.attempt.deadline, state.wait_until, state.standby.wait_until)
    assert (
        state.phase in restful
        or pending(state)
        or any(timers)
        or a.mode is not SyncMode.IDLE
        or state.standby.label is None  # between two events of one append
    )


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_evolve_never_raises_and_epochs_never_fall(data: st.DataObject) -> None:
    story = Story()
    host = story.syncing()
    pool = [*story.told]
    story.failover(host)
    pool += story.told
    pool.append(
        ThresholdReached(
            workspace=WS,
            epoch=1,
            machine=STANDBY.id,
            role=Role.STANDBY,
            failures=3,
            threshold=3,
            reason="silent",
            positive=False,
        )
    )
    state = State(workspace=WS)
    now = START
    for _ in range(40):
        event = data.draw(st.sampled_from(pool))
        after = evolve(state, event)
        assert after.epoch >= state.epoch
        gpus = {h.provider_id for h in (after.primary, after.attempt.host) if h}
        assert len(gpus) <= 2
        pending(after)
        endpoint(after)
        assignment(after, position=1, host_ca="", user_ca="")
        decide(after, event, Context(now=now, free_port=1))
        due(after, now + timedelta(days=1))
        state = after
