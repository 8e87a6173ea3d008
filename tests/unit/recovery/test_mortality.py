"""The standby is mortal too: each of its deaths, in each phase, has a defined way on."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta

import pytest

from services.recovery.domain import effects, mortality
from services.recovery.domain.obligations import endpoint, pending
from services.recovery.domain.state import End, Phase, Serving, State, Step
from services.recovery.domain.sweep import zombie
from services.recovery.domain.verdict import without_copy
from services.recovery.domain.world import Rental, RentalStatus, Sighting
from shared.events import Event
from shared.events.health import HealthRestored
from shared.events.recovery import (
    FailoverCompleted,
    FailoverRefused,
    FailoverStarted,
    PrimaryFenced,
    ProvisionFailed,
    RecoveryHalted,
    RequestRefused,
    StandbyLossRefused,
    StandbyLost,
    StandbyRestored,
    StandbyStale,
    WaitScheduled,
)
from shared.events.sync import GenerationConfirmed
from shared.machines import MachineId, Role
from tests.support import virtual_time
from tests.support.examples import STANDBY, WS, Story
from tests.support.faults import fault
from tests.support.situations import recovering_with_a_fenced_gpu
from tests.support.world import World
from tests.unit.recovery.test_service import syncing

Tale = Callable[[World], Coroutine[object, object, None]]


def played(tale: Tale) -> World:
    world = World()
    virtual_time.run(tale(world))
    return world


async def protected(world: World, **policy: object) -> None:
    world.ask("register", path="/workspace", origin="empty", policy=policy)
    await world.life(syncing(1))
    await world.quiet(60)


async def on_standby(world: World) -> None:
    """The GPU was lost and the market is empty: the standby serves for a while."""
    await protected(world)
    world.vast.sold_out = True
    world.ask("failover")
    await world.life(lambda s: s.phase is Phase.RECOVERING)


def back(state: State) -> bool:
    standby = state.standby
    return standby.host is not None and not standby.lost and bool(state.generation)


async def restored_times(world: World, times: int) -> None:
    await world.life(lambda _: world.timeline().count("StandbyRestored") == times)


def recorded(world: World, kind: type[Event]) -> list[Event]:
    envelopes = virtual_time.run(world.log.read(limit=10_000))
    return [e.event for e in envelopes if isinstance(e.event, kind)]


def lose(story: Story, *, gone: bool = False, at: float = 0.0) -> list[Event]:
    host = story.state.standby.host
    assert host is not None
    return story.tell(
        StandbyLost(
            workspace=WS,
            epoch=story.state.epoch,
            machine=host.id,
            reason="preempted",
            gone=gone,
            lost_at=story.now + timedelta(seconds=at),
        )
    )


def restore(story: Story, generation: str) -> list[Event]:
    host = story.state.standby.host or STANDBY
    return story.tell(
        StandbyRestored(workspace=WS, epoch=story.state.epoch, host=host, generation=generation)
    )


def fail_to_revive(story: Story, reason: str = "no zone has room") -> list[Event]:
    return story.tell(
        ProvisionFailed(
            workspace=WS,
            epoch=story.state.epoch,
            role=Role.STANDBY,
            attempt=story.state.standby.attempt,
            stage="prepare",
            reason=reason,
            hint="name more zones",
        )
    )


def owed(state: State) -> set[type]:
    return {type(effect) for effect in pending(state)} - {effects.SendNotice}


def looks(state: State) -> list[bool]:
    """The looks owed at the primary, and whether it alone has the data."""
    return [e.alone for e in pending(state) if isinstance(e, effects.ConfirmDeath)]


# --- health's word is a hint


def test_a_standby_that_answers_is_not_given_up_whatever_health_says() -> None:
    async def tale(world: World) -> None:
        await protected(world)
        standby = world.state().standby.host
        assert standby is not None
        world.threshold(standby, Role.STANDBY, "spoofed")
        await world.life(lambda _: "StandbyLossRefused" in world.timeline())

    world = played(tale)
    assert "StandbyLost" not in world.timeline()
    assert world.state().standby.suspicion is None


def test_a_standby_whose_provider_is_silent_is_looked_at_again_and_not_given_up() -> None:
    story = Story()
    story.syncing()
    story.suspect_standby()
    (look,) = [e for e in pending(story.state) if isinstance(e, effects.ConfirmStandbyLoss)]
    story.tell(
        StandbyLossRefused(
            workspace=WS,
            epoch=story.state.epoch,
            machine=look.host.id,
            reason="unknown is not lost",
            recheck_at=story.now + timedelta(seconds=10),
        )
    )
    assert effects.ConfirmStandbyLoss not in owed(story.state)
    story.wait(11)
    assert effects.ConfirmStandbyLoss in owed(story.state)
    story.tell(
        HealthRestored(
            workspace=WS,
            epoch=story.state.epoch,
            machine=STANDBY.id,
            role=Role.STANDBY,
            failures_before=3,
        )
    )
    assert effects.ConfirmStandbyLoss not in owed(story.state)


# --- while a GPU serves


@fault(71)
def test_a_preempted_standby_is_started_again_and_keeps_its_copy() -> None:
    async def tale(world: World) -> None:
        await protected(world)
        world.threshold(world.preempt(), Role.STANDBY)
        await world.life(lambda s: "StandbyRestored" in world.timeline() and s.sealed == s.seal)

    world = played(tale)
    assert "StandbyLost" in world.timeline()
    assert world.gce.created == ["dumont-train-standby-1"], "started, not made anew"


@fault(71)
def test_a_failover_is_refused_while_the_standby_is_lost_and_done_when_it_is_back() -> None:
    story = Story()
    gpu = story.syncing()
    generation = story.state.generation
    lose(story)
    (refused,) = story.suspect(gpu)
    assert isinstance(refused, FailoverRefused)
    assert "no standby to fail over to" in refused.reason
    assert refused.recheck_at is not None
    restore(story, generation)
    story.wait(11)
    assert effects.ConfirmDeath in owed(story.state)


@fault(73)
def test_a_standby_that_is_gone_is_made_anew_and_never_promoted_while_it_is_empty() -> None:
    story = Story()
    gpu = story.syncing()
    lose(story, gone=True)
    (provision,) = [e for e in pending(story.state) if isinstance(e, effects.ProvisionStandby)]
    assert (provision.label, provision.revive) == ("dumont-train-standby-2", None)
    restore(story, "")
    story.suspect(gpu)
    assert looks(story.state) == [True], "it may be gone for good; but no failover"
    story.sync(gpu)
    assert looks(story.state) == [False]


@fault(73)
def test_a_copy_on_a_standby_that_is_gone_is_no_copy_however_late_it_is_reported() -> None:
    story = Story()
    gpu = story.syncing()
    first = story.state.standby.host
    assert first is not None
    lose(story, gone=True)
    assert story.sync(gpu, standby=first.id) == []
    assert story.state.generation == ""
    second = replace(first, id=MachineId("dumont-train-standby-2"), provider_id="z/standby-2")
    epoch = story.state.epoch
    story.tell(StandbyRestored(workspace=WS, epoch=epoch, host=second, generation=""))
    story.sync(gpu, standby=first.id)
    assert story.state.generation == ""
    story.sync(gpu, standby=second.id)
    assert story.state.generation


@fault(75)
def test_a_halt_without_data_is_not_ended_by_a_late_report_of_the_lost_copy() -> None:
    story = Story().registered()
    story.sync(seal=1)
    lose(story, gone=True)
    assert story.phase() is Phase.HALTED
    story.sync(seal=1)
    story.ask("recover")
    assert story.phase() is Phase.HALTED


def test_a_gpu_that_is_gone_while_the_standby_is_empty_halts_and_names_the_kept_disk() -> None:
    async def tale(world: World) -> None:
        await protected(world)
        primary = world.state().primary
        assert primary is not None
        world.gce.no_room = 5
        world.log.upon["StandbyRestored"] = world.vast.machines.clear
        world.threshold(world.preempt(), Role.STANDBY)
        await world.life(lambda _: "StandbyRestored" in world.timeline())
        world.threshold(primary, Role.GPU, "the machine does not exist any more")
        await world.life(lambda s: s.phase is Phase.HALTED)
        await world.quiet(600)

    world = played(tale)
    (halted,) = recorded(world, RecoveryHalted)
    assert isinstance(halted, RecoveryHalted)
    assert halted.code == "no-data"
    assert "dumont-train-standby-1" in halted.hint
    assert world.gce.machines["dumont-train-standby-1"].rental.status is RentalStatus.STOPPED
    assert world.vast.created == ["dumont-train-e0-a1"], "no GPU is rented for an empty tree"
    assert ("critical", f"recovery halted: {halted.reason}") in world.notices.told


@fault(75)
def test_a_stopped_gpu_that_alone_has_the_data_is_waited_for_and_people_are_told() -> None:
    story = Story()
    gpu = story.syncing()
    lose(story, gone=True)
    restore(story, "")
    story.suspect(gpu)
    (look,) = [e for e in pending(story.state) if isinstance(e, effects.ConfirmDeath)]
    stopped = Rental(
        label=gpu.id,
        provider="vast",
        provider_id=gpu.provider_id,
        status=RentalStatus.STOPPED,
        address=None,
        port=None,
        price_per_hour=0.2,
    )
    refused = without_copy(
        story.state,
        look,
        sighting=Sighting.SILENT,
        rental=stopped,
        provider_silent="",
        now=story.now,
    )
    story.tell(refused)
    assert story.phase() is Phase.SYNCING
    assert story.state.notices[-1].severity == "critical"
    assert f"vast {gpu.provider_id}" in story.state.notices[-1].hint
    story.wait(61)
    assert looks(story.state) == [True], "it is looked at again"


@fault(75)
def test_a_gpu_that_was_believed_gone_and_comes_back_with_the_data_is_mirrored_again() -> None:
    story = Story()
    gpu = story.syncing()
    lose(story, gone=True)
    restore(story, "")
    story.suspect(gpu)
    story.tell(mortality.halt_without_both(story.state))
    assert story.phase() is Phase.HALTED
    (refused,) = story.ask("recover")
    assert isinstance(refused, RequestRefused)
    story.sync(gpu)
    assert story.phase() is Phase.SYNCING
    assert gpu.provider_id not in {c.provider_id for c in story.state.condemned}


@fault(73)
def test_a_standby_deleted_right_after_the_way_back_is_seeded_from_the_new_gpu() -> None:
    async def tale(world: World) -> None:
        world.ask("register", path="/workspace", origin="empty")
        await world.life(lambda s: s.phase is Phase.SYNCING)
        world.threshold(world.delete_standby(), Role.STANDBY)
        await world.life(lambda s: "StandbyRestored" in world.timeline() and back(s))

    world = played(tale)
    assert world.gce.created == ["dumont-train-standby-1", "dumont-train-standby-2"]
    assert world.gce.running() == ["dumont-train-standby-2"]
    assert "StandbyRestored" in world.timeline()


def test_a_standby_without_room_in_its_zone_is_replaced_and_its_disk_kept_until_then() -> None:
    story = Story()
    gpu = story.syncing()
    lose(story)
    fail_to_revive(story)
    story.wait(3600)
    assert not story.state.condemned
    (waits,) = fail_to_revive(story)
    assert isinstance(waits, WaitScheduled)
    assert waits.hint == "name more zones"
    (kept,) = story.state.condemned
    assert (kept.machine, kept.end) == (STANDBY.id, End.STOP)
    story.wait(3600)
    (provision,) = [e for e in pending(story.state) if isinstance(e, effects.ProvisionStandby)]
    assert provision.revive is None
    assert provision.label != STANDBY.id
    fenced = PrimaryFenced(
        workspace=WS,
        epoch=story.state.epoch,
        machine=STANDBY.id,
        provider_id=STANDBY.provider_id,
        how="stopped",
        role=Role.STANDBY,
    )
    story.tell(fenced)
    assert [c.end for c in story.state.condemned] == [End.STOP]
    restore(story, "")
    story.sync(gpu)
    assert [c.end for c in story.state.condemned] == [End.DESTROY]


def test_a_stock_out_ends_with_one_standby_elsewhere_and_nothing_left_behind() -> None:
    async def tale(world: World) -> None:
        await protected(world, search_retry_wait=10.0)
        world.gce.no_room = 1000
        world.threshold(world.preempt(), Role.STANDBY)
        await world.life(lambda _: "StandbyRestored" in world.timeline())
        await world.life(lambda s: back(s) and not s.condemned)

    world = played(tale)
    assert list(world.gce.machines) == world.gce.running()
    assert len(world.gce.machines) == 1


def test_a_spot_standby_that_is_lost_again_and_again_is_made_anew_on_demand() -> None:
    async def tale(world: World) -> None:
        await protected(world)
        for nth in range(1, 4):
            world.threshold(world.preempt(), Role.STANDBY)
            await restored_times(world, nth)
            await world.life(lambda s: back(s) and not s.condemned)

    world = played(tale)
    (machine,) = world.gce.machines.values()
    assert not machine.spot
    assert world.gce.created == ["dumont-train-standby-1", "dumont-train-standby-2"]


def test_losses_that_lie_far_apart_do_not_make_a_standby_dearer() -> None:
    story = Story()
    story.syncing()
    for day in range(5):
        lose(story, at=day * 86_500.0)
        restore(story, story.state.generation)
    assert story.state.standby.host == STANDBY
    assert not story.state.condemned


def test_a_standby_that_runs_and_does_not_answer_is_given_a_new_start() -> None:
    async def tale(world: World) -> None:
        await protected(world, ssh_timeout=30.0, search_retry_wait=5.0)
        standby = world.state().standby.host
        assert standby is not None
        world.gce.machines[standby.provider_id].hung = True
        world.threshold(standby, Role.STANDBY)
        await world.life(lambda s: "StandbyRestored" in world.timeline() and back(s))

    world = played(tale)
    assert world.gce.created == ["dumont-train-standby-1"]
    failed = recorded(world, ProvisionFailed)
    assert [f.reason for f in failed if isinstance(f, ProvisionFailed)] == [
        "the standby did not answer in 30 s; gce last said: running"
    ]


# --- failover


@fault(75)
def test_no_failover_is_begun_towards_a_standby_that_died_with_the_gpu() -> None:
    async def tale(world: World) -> None:
        await protected(world)
        gpu = world.state().primary
        assert gpu is not None
        world.outbid(gpu)
        world.preempt()
        world.threshold(gpu, Role.GPU)
        await world.life(lambda s: bool(s.standby.lost))
        assert world.state().phase is Phase.SYNCING
        await world.life(syncing(3))

    world = played(tale)
    told = world.timeline()
    assert told.index("StandbyLost") < told.index("StandbyRestored") < told.index("FailoverStarted")
    assert world.vast.running() == ["dumont-train-e2-a1"]


@fault(72)
def test_a_standby_preempted_during_a_failover_is_started_again_and_then_promoted() -> None:
    async def tale(world: World) -> None:
        await protected(world)
        world.log.upon["FailoverStarted"] = world.preempt  # the promotion itself finds out
        world.ask("failover")
        await world.life(syncing(3))

    world = played(tale)
    told = world.timeline()
    assert told.index("StandbyRestored") < told.index("FailoverCompleted")
    assert world.gce.created == ["dumont-train-standby-1"]


@fault(72)
@fault(75)
def test_a_standby_deleted_during_a_failover_halts_and_keeps_the_lost_gpus_disk() -> None:
    async def tale(world: World) -> None:
        await protected(world)
        world.log.upon["FailoverStarted"] = world.delete_standby
        world.ask("failover")
        await world.life(lambda s: s.phase is Phase.HALTED and s.condemned[0].seen)
        await world.quiet(600)

    world = played(tale)
    (halted,) = recorded(world, RecoveryHalted)
    assert isinstance(halted, RecoveryHalted)
    assert "vast 101" in halted.hint
    assert world.vast.machines["101"].rental.status is RentalStatus.STOPPED
    assert world.gce.machines == {}, "no empty standby is paid for"
    assert endpoint(world.state()) is None


@fault(75)
def test_a_person_may_start_the_kept_gpu_of_a_halted_workspace() -> None:
    story = Story()
    story.ask_failover_then_lose_standby()
    (kept,) = story.state.condemned
    assert kept.keep
    started = Rental(
        label=kept.machine,
        provider="vast",
        provider_id=kept.provider_id,
        status=RentalStatus.RUNNING,
        address=None,
        port=None,
        price_per_hour=0.2,
    )
    story.tell(
        PrimaryFenced(
            workspace=WS,
            epoch=story.state.epoch,
            machine=kept.machine,
            provider_id=kept.provider_id,
            how="stopped",
        )
    )
    assert zombie(story.state, started, story.now) is None
    story.ask("remove")
    assert zombie(story.state, started, story.now) is None


@fault(75)
def test_nothing_is_recovered_from_an_empty_standby() -> None:
    story = Story()
    story.ask_failover_then_lose_standby()
    (refused,) = story.ask("recover")
    assert isinstance(refused, RequestRefused)
    assert "nothing to restore" in refused.reason


# --- while the standby serves


@fault(72)
def test_a_serving_standby_is_started_again_for_as_long_as_it_takes() -> None:
    async def tale(world: World) -> None:
        await on_standby(world)
        world.gce.no_room = 30
        world.threshold(world.preempt(), Role.STANDBY)
        await world.life(lambda s: bool(s.standby.lost))
        await world.life(back, seconds=86_400)
        world.vast.sold_out = False
        await world.life(syncing(3), seconds=86_400)

    world = played(tale)
    assert world.gce.created == ["dumont-train-standby-1"], "its disk is the only copy"
    assert "RecoveryHalted" not in world.timeline()


def test_the_only_copy_is_never_given_up_however_often_it_cannot_be_started() -> None:
    story = Story()
    story.failover(story.syncing())
    lose(story)
    for _ in range(5):
        fail_to_revive(story)
        story.wait(3600)
    (provision,) = [e for e in pending(story.state) if isinstance(e, effects.ProvisionStandby)]
    assert provision.revive == STANDBY


def test_no_gpu_is_rented_while_there_is_no_standby_to_restore_from() -> None:
    story = recovering_with_a_fenced_gpu()
    assert effects.SearchOffers in owed(story.state)
    lose(story)
    assert effects.SearchOffers not in owed(story.state)
    assert effects.ProvisionStandby in owed(story.state)


@fault(75)
def test_a_serving_standby_that_is_gone_halts_with_the_place_of_the_data() -> None:
    story = Story()
    lost = story.syncing()
    story.failover(lost)
    (halted,) = lose(story, gone=True)
    assert isinstance(halted, RecoveryHalted)
    assert lost.provider_id in halted.hint
    assert (story.phase(), story.state.serving) == (Phase.HALTED, Serving.NOBODY)
    assert [(c.end, c.keep) for c in story.state.condemned] == [(End.STOP, True)]


@fault(75)
def test_a_serving_standby_that_comes_back_with_an_empty_disk_halts_too() -> None:
    story = Story()
    story.failover(story.syncing())
    lose(story)
    (halted,) = restore(story, "")
    assert isinstance(halted, RecoveryHalted)
    assert endpoint(story.state) is None, "nobody is let into an empty workspace"


def test_a_candidate_that_some_generation_was_restored_to_is_kept_when_all_else_is_gone() -> None:
    story = Story()
    story.failover(story.syncing())
    candidate = story.restoring()
    story.sync()
    story.restore_done(seconds=60)
    lose(story, gone=True)
    assert (End.STOP, True) in {
        (c.end, c.keep) for c in story.state.condemned if c.machine == candidate.id
    }


def test_a_new_standby_without_any_data_yet_is_no_loss() -> None:
    story = Story().registered()
    lose(story, gone=True)
    assert story.phase() is Phase.ON_STANDBY
    assert effects.ProvisionStandby in owed(story.state)
    restore(story, "")
    assert story.state.serving is Serving.STANDBY


# --- the way back


@fault(72)
def test_a_standby_lost_after_the_last_delta_does_not_hold_up_the_switch() -> None:
    story = Story().searching()
    story.restoring()
    story.sync()
    story.restore_done()
    story.frozen()
    story.sync()
    story.restore_done(final=True)
    assert story.state.step is Step.SWITCHING
    lose(story, gone=True)
    assert story.phase() is Phase.FAILING_BACK
    (switch,) = [e for e in pending(story.state) if isinstance(e, effects.SwitchToGpu)]
    assert switch.standby is None


@pytest.mark.parametrize(
    "moment", ["GpuReady", "FailbackStarted", "StandbyFrozen", "FailbackVerified"]
)
@fault(72)
def test_a_standby_preempted_on_the_way_back_ends_with_a_protected_gpu(moment: str) -> None:
    async def tale(world: World) -> None:
        await protected(world)

        def preempted() -> None:
            world.threshold(world.preempt(), Role.STANDBY)

        world.log.upon[moment] = preempted
        world.ask("failover")
        await world.life(lambda s: s.phase is Phase.SYNCING and s.epoch > 2 and not s.resume_owed)
        await world.life(back)

    world = played(tale)
    assert "StandbyLost" in world.timeline()
    assert len(world.vast.running()) == 1
    assert world.gce.created == ["dumont-train-standby-1"]


# --- stale copies


def test_a_stale_copy_is_not_promoted_by_itself_and_people_are_told_what_to_do() -> None:
    story = Story()
    gpu = story.syncing()
    (stale,) = story.wait(900)
    assert isinstance(stale, StandbyStale)
    (refused,) = story.suspect(gpu)
    assert isinstance(refused, FailoverRefused)
    assert "960 s old; the policy allows 900 s" in refused.reason
    assert "dumont failover train --allow-data-loss" in refused.hint
    assert effects.ConfirmDeath not in owed(story.state)
    story.sync(gpu)
    story.wait(11)
    assert effects.ConfirmDeath in owed(story.state), "fresh again: looked at by itself"


def test_a_stale_copy_is_said_once() -> None:
    story = Story()
    story.syncing()
    story.wait(900)
    assert story.wait(900) == []


def test_a_person_may_promote_a_stale_copy_and_must_say_so() -> None:
    story = Story()
    story.syncing()
    story.wait(900)
    (refused,) = story.ask("failover")
    assert isinstance(refused, RequestRefused)
    assert "--allow-data-loss" in refused.hint
    (started,) = story.ask("failover", allow_data_loss=True)
    assert isinstance(started, FailoverStarted)


def test_a_standby_that_came_back_with_an_older_generation_counts_as_stale() -> None:
    story = Story()
    gpu = story.syncing()
    older = story.state.generation[:-1]
    lose(story)
    restore(story, older)
    (refused,) = story.suspect(gpu)
    assert isinstance(refused, FailoverRefused)
    assert f"holds generation {older}, older than" in refused.reason
    story.sync(gpu)
    story.wait(11)
    assert effects.ConfirmDeath in owed(story.state)


def test_an_idle_workspace_does_not_get_stale_while_sync_finds_nothing_new() -> None:
    story = Story()
    gpu = story.syncing()
    story.wait(890)
    story.tell(
        GenerationConfirmed(
            workspace=WS,
            epoch=story.state.epoch,
            generation=story.state.generation,
            source=gpu.id,
            taken_at=story.now,
        )
    )
    assert story.wait(890) == []
    story.suspect(gpu)
    assert effects.ConfirmDeath in owed(story.state)


def test_an_idle_day_changes_nothing_and_a_failover_after_it_is_automatic() -> None:
    async def tale(world: World) -> None:
        await protected(world)
        await world.quiet(86_400)
        gpu = world.state().primary
        assert gpu is not None
        world.outbid(gpu)
        world.threshold(gpu, Role.GPU)
        await world.life(syncing(3))

    world = played(tale)
    assert "StandbyStale" not in world.timeline()
    (completed,) = recorded(world, FailoverCompleted)
    assert isinstance(completed, FailoverCompleted)
    assert completed.generation_age_seconds is not None
    assert completed.generation_age_seconds < 600
