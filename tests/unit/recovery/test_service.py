"""The shell in a world that behaves: what ends up in the log, at the endpoint, and on the bill."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from services.recovery.domain.state import Phase, State
from services.recovery.ports import RentalStatus
from shared.events.health import ThresholdReached
from shared.machines import Role
from tests.support import virtual_time
from tests.support.faults import fault
from tests.support.world import WS, Machine, World


def syncing(epoch: int) -> Callable[[State], bool]:
    def reached(state: State) -> bool:
        settled = not state.condemned and not state.resume_owed and not state.notices
        return state.phase is Phase.SYNCING and state.epoch == epoch and settled

    return reached


async def first_start(world: World) -> None:
    world.ask("register", path="/workspace", origin="empty")
    await world.life(syncing(1))


async def lose_the_gpu(world: World, *, epoch: int = 3) -> None:
    await asyncio.sleep(60)
    lost = world.state().primary
    assert lost is not None
    world.lose(lost)
    await world.life(syncing(epoch))


async def the_whole_story(world: World) -> None:
    await first_start(world)
    await lose_the_gpu(world)


FIRST_START = [
    "RequestReceived",
    "WorkspaceRegistered",
    "ProvisionRequested",
    "StandbyProvisioned",
    "SyncCompleted",
    "RecoveryStarted",
    "OfferSelected",
    "ProvisionRequested",
    "GpuProvisioned",
    "GpuReady",
    "SyncCompleted",
    "RestoreDone",
    "FailbackStarted",
    "StandbyFrozen",
    "SyncCompleted",
    "RestoreDone",
    "FailbackVerified",
    "FailbackCompleted",
    "SyncCompleted",
    "SyncResumed",
    "RecoveryCompleted",
    "NoticeSent",
]


def test_the_first_start_reads_like_a_story() -> None:
    world = World()
    virtual_time.run(first_start(world))
    assert world.timeline() == FIRST_START
    assert world.endpoint.history == ["standby", "nobody", "gpu"]


def test_a_lost_gpu_is_replaced_with_nobody_at_the_keyboard() -> None:
    world = World()
    virtual_time.run(the_whole_story(world))
    first, incident = ["standby", "nobody", "gpu"], ["nobody", "standby", "nobody", "gpu"]
    assert world.endpoint.history == [*first, *incident]
    assert world.vast.running() == ["dumont-train-e2-a1"]
    assert list(world.vast.machines) == ["102"], "the lost one is destroyed in the end"


APPENDS = range(1, 40)


@fault(3, 5, 6, 7, 9, 10, 11)
@pytest.mark.parametrize("die_at", APPENDS)
def test_a_kill_between_any_effect_and_its_record_changes_nothing(die_at: int) -> None:
    world = World()
    world.log.die_at = die_at
    virtual_time.run(the_whole_story(world))
    assert world.vast.running() == ["dumont-train-e2-a1"]
    assert len(world.vast.created) == 2, "nothing was rented twice"
    assert len(world.gce.created) == 1
    assert world.endpoint.history[-1] == "gpu"
    assert world.timeline()[: len(FIRST_START)] == FIRST_START


@fault(20)
@pytest.mark.parametrize("told", range(2, 21, 3))
def test_a_recovery_that_is_asked_to_end_at_any_step_goes_on_from_there(told: int) -> None:
    async def story(world: World) -> None:
        world.ask("register", path="/workspace", origin="empty")
        await world.life(lambda _: len(world.timeline()) >= told)
        await world.life(syncing(1))
        await lose_the_gpu(world)

    world = World()
    virtual_time.run(story(world))
    assert world.vast.running() == ["dumont-train-e2-a1"]
    assert len(world.vast.created) == 2, "nothing was rented twice"
    assert world.timeline()[: len(FIRST_START)] == FIRST_START


def test_the_kills_were_real() -> None:
    world = World()
    world.log.die_at = 5
    virtual_time.run(the_whole_story(world))
    assert world.restarts == 1


@fault(7, 56)
def test_a_rental_whose_answer_got_lost_is_adopted_and_not_rented_again() -> None:
    world = World()
    world.vast.answers_lost = 1
    virtual_time.run(first_start(world))
    assert world.vast.created == ["dumont-train-e0-a1"]


@fault(57)
def test_a_machine_with_our_label_that_nobody_knows_is_destroyed() -> None:
    async def story(world: World) -> None:
        await first_start(world)
        rental = next(iter(world.vast.machines.values())).rental
        twin = replace(rental, provider_id="999")
        world.vast.machines["999"] = Machine(twin, Role.GPU)
        await world.life(lambda _: world.timeline()[-1] == "OrphanDestroyed")

    world = World()
    virtual_time.run(story(world))
    assert list(world.vast.machines) == ["101"]
    assert world.timeline()[-2:] == ["ZombieSeen", "OrphanDestroyed"]


@fault(29, 96)
def test_a_gpu_that_answers_is_not_failed_over_whatever_health_says() -> None:
    async def story(world: World) -> None:
        await first_start(world)
        await asyncio.sleep(60)
        primary = world.state().primary
        assert primary is not None
        world.say(
            ThresholdReached(
                workspace=WS,
                epoch=1,
                machine=primary.id,
                role=Role.GPU,
                failures=3,
                threshold=3,
                reason="spoofed",
                positive=True,
            )
        )
        await world.life(lambda _: world.timeline()[-1] == "FailoverRefused")

    world = World()
    virtual_time.run(story(world))
    assert world.timeline()[-2:] == ["ThresholdReached", "FailoverRefused"]
    assert world.state().phase is Phase.SYNCING


@fault(48)
def test_a_zombie_is_destroyed_although_it_was_seen_stopped() -> None:
    async def story(world: World) -> None:
        await first_start(world)
        await asyncio.sleep(60)
        lost = world.state().primary
        assert lost is not None
        world.outbid(lost)
        world.say(
            ThresholdReached(
                workspace=WS,
                epoch=1,
                machine=lost.id,
                role=Role.GPU,
                failures=3,
                threshold=3,
                reason="stopped",
                positive=True,
            )
        )
        await world.life(lambda state: any(c.seen for c in state.condemned))
        world.vast.set(lost.provider_id, RentalStatus.RUNNING)
        await world.life(syncing(3))

    world = World()
    virtual_time.run(story(world))
    assert "ZombieSeen" in world.timeline()
    assert world.vast.running() == ["dumont-train-e2-a1"]


def test_an_effect_that_fails_again_and_again_is_told_once_and_tried_on() -> None:
    async def story(world: World) -> None:
        world.vast.silent = 12
        await first_start(world)

    world = World()
    virtual_time.run(story(world))
    assert world.timeline().count("EffectFailing") == 1
    assert world.vast.running() == ["dumont-train-e0-a1"]
