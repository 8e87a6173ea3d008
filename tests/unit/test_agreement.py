"""Two folds of one log, written by two hands, must tell the same story."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from services.api.domain import projections
from services.recovery.domain.evolution import evolve
from services.recovery.domain.state import Phase, Serving, State
from shared.envelope import Envelope
from tests.support import virtual_time
from tests.support.world import WS, World
from tests.unit.recovery.test_service import first_start, syncing, the_whole_story

Story = Callable[[World], Coroutine[object, object, None]]


async def answers_lost(world: World) -> None:
    world.vast.answers_lost = 1
    await the_whole_story(world)


async def killed_on_the_way(world: World) -> None:
    world.log.die_at = 14
    await the_whole_story(world)


async def standby_gone_in_the_failover(world: World) -> None:
    await first_start(world)
    world.log.upon["FailoverStarted"] = world.delete_standby
    world.ask("failover")
    await world.life(lambda state: state.phase is Phase.HALTED)


async def standby_preempted_in_the_failover(world: World) -> None:
    await first_start(world)
    await asyncio.sleep(60)
    world.log.upon["FailoverStarted"] = world.preempt
    world.ask("failover")
    await world.life(syncing(3))


STORIES = [
    first_start,
    the_whole_story,
    answers_lost,
    killed_on_the_way,
    standby_gone_in_the_failover,
    standby_preempted_in_the_failover,
]


def log_of(story: Story) -> list[Envelope]:
    world = World()
    virtual_time.run(story(world))
    return virtual_time.run(world.log.read(limit=10_000))


@pytest.mark.parametrize("story", STORIES)
def test_api_and_recovery_see_the_same_phase_epoch_and_gpu_after_each_event(story: Story) -> None:
    ours = State(workspace=WS)
    theirs = None
    for envelope in log_of(story):
        ours = evolve(ours, envelope.event)
        theirs = projections.evolve(theirs, envelope)
        if theirs is None:
            continue
        assert theirs.phase.value == ours.phase.value, envelope.event.type
        assert theirs.epoch == ours.epoch, envelope.event.type
        if ours.serving is Serving.NOBODY and ours.phase is Phase.HALTED:
            assert theirs.serving is None
        if ours.primary is not None:
            assert theirs.gpu is not None
            assert theirs.gpu.host == ours.primary


@pytest.mark.parametrize("start", range(0, 40, 3))
def test_a_state_folded_from_any_prefix_and_its_rest_is_the_state_of_the_whole(start: int) -> None:
    envelopes = log_of(the_whole_story)
    whole = projections.fold(envelopes)
    view = projections.fold(envelopes[:start])
    for envelope in envelopes[start:]:
        view = projections.evolve(view, envelope)
    assert view == whole
