"""A failover to an older copy: looked for first, and nothing given up without it."""

import asyncio
from datetime import datetime, timedelta

import pytest

from services.recovery.domain import rollback
from services.recovery.domain.effects import FindGeneration, PromoteStandby
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import Phase, State
from services.recovery.domain.world import Copy
from shared.events import Event
from shared.events.recovery import (
    FailoverStarted,
    RequestRefused,
    RollbackRefused,
    RollbackRequested,
    WorkspaceRemoved,
)
from tests.support import virtual_time
from tests.support.examples import START, WS, Story
from tests.support.situations import lose_standby
from tests.support.virtual_time import now
from tests.support.world import World
from tests.unit.recovery.test_service import first_start, syncing


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def copy(number: int, *, taken: float, sealed: float | None = None, whole: bool = True) -> Copy:
    return Copy(
        generation=f"e000001-{number:08d}",
        taken_at=at(taken),
        sealed_at=at(taken if sealed is None else sealed),
        whole=whole,
    )


COPIES = [copy(1, taken=0), copy(2, taken=10), copy(3, taken=20), copy(4, taken=30, whole=False)]


@pytest.mark.parametrize(
    ("before", "number"), [(-1, None), (5, 1), (10, 2), (19, 2), (25, 3), (60, 3)]
)
def test_the_newest_whole_copy_from_before_the_moment_is_taken(
    before: float, number: int | None
) -> None:
    found = rollback.chosen(COPIES, at(before))
    assert (found and found.generation) == (number and f"e000001-{number:08d}")


def test_a_copy_that_was_still_being_read_at_that_moment_is_not_from_before_it() -> None:
    copies = [copy(1, taken=0, sealed=1), copy(2, taken=9, sealed=11)]
    found = rollback.chosen(copies, at(10))
    assert found is not None
    assert found.generation == "e000001-00000001"


def wanted() -> Story:
    """Somebody wants the data back as it was at 12 minutes."""
    story = Story()
    story.syncing()
    story.tell(
        RollbackRequested(
            workspace=WS, epoch=story.state.epoch, before=at(12), reason="spoilt", actor="ada"
        )
    )
    return story


def looked(state: State, copies: list[Copy]) -> Event:
    (effect,) = (owed for owed in pending(state) if isinstance(owed, FindGeneration))
    return rollback.begin(state, effect, copies, at(40))


def test_the_failover_begins_with_the_copy_and_is_promoted_with_it() -> None:
    story = wanted()
    epoch = story.state.epoch
    begun = looked(story.state, COPIES)
    assert isinstance(begun, FailoverStarted)
    assert (begun.epoch, begun.generation) == (epoch + 1, "e000001-00000002")
    assert (begun.actor, begun.reason) == ("ada", "spoilt")
    story.tell(begun)
    assert story.state.rollback is None
    (promotion,) = (owed for owed in pending(story.state) if isinstance(owed, PromoteStandby))
    assert promotion.generation == "e000001-00000002"


def test_without_such_a_copy_nothing_is_given_up_and_the_oldest_is_named() -> None:
    story = wanted()
    answer = looked(story.state, COPIES[2:])
    assert isinstance(answer, RollbackRefused)
    assert answer.reason == (
        "the standby holds no copy from before 2026-01-01 00:12:00 UTC: "
        "the oldest is of 2026-01-01 00:20:00 UTC"
    )
    story.tell(answer)
    assert story.state.phase is Phase.SYNCING
    assert not any(isinstance(owed, FindGeneration) for owed in pending(story.state))


def test_a_standby_that_is_lost_meanwhile_ends_the_wish() -> None:
    story = wanted()
    lose_standby(story)
    answer = looked(story.state, COPIES)
    assert isinstance(answer, RollbackRefused)
    assert "no standby" in answer.reason


def test_a_failover_that_came_first_ends_the_wish_with_a_reason() -> None:
    story = wanted()
    assert story.state.primary is not None
    lost, epoch = story.state.primary.id, story.state.epoch + 1
    story.tell(FailoverStarted(workspace=WS, epoch=epoch, machine=lost, reason="lost"))
    answer = looked(story.state, COPIES)
    assert isinstance(answer, RollbackRefused)
    assert "FAILING_OVER" in answer.reason


def test_a_removed_workspace_is_not_taken_back_to_anything() -> None:
    story = wanted()
    story.tell(WorkspaceRemoved(workspace=WS, epoch=story.state.epoch))
    assert not any(isinstance(owed, FindGeneration) for owed in pending(story.state))


# --- the whole story


async def goes_back(world: World, *, ago: float) -> None:
    await first_start(world)
    await asyncio.sleep(600)
    sealed = now() - timedelta(seconds=300)
    generation = world.state().generation
    world.hosts.kept = [Copy(generation=generation, taken_at=sealed, sealed_at=sealed, whole=True)]
    world.ask("failover", before=(now() - timedelta(seconds=ago)).isoformat())


def test_a_person_goes_back_and_a_new_gpu_goes_on_from_there() -> None:
    async def story(world: World) -> None:
        await goes_back(world, ago=60)
        await world.life(syncing(3))

    world = World()
    virtual_time.run(story(world))
    told = world.timeline()
    assert told.index("RollbackRequested") < told.index("FailoverStarted")
    assert world.vast.running() == ["dumont-train-e2-a1"]


def test_a_person_who_asks_for_too_much_keeps_the_gpu() -> None:
    async def story(world: World) -> None:
        await goes_back(world, ago=400)
        await world.life(lambda _: "RollbackRefused" in world.timeline())

    world = World()
    virtual_time.run(story(world))
    assert "FailoverStarted" not in world.timeline()
    assert world.state().phase is Phase.SYNCING
    assert world.state().rollback is None


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("yesterday", "is no moment"),
        ("2020-01-01T00:00:00", "has no time zone"),
        ("2999-01-01T00:00:00+00:00", "is not over"),
        (17, "is no moment"),
    ],
)
def test_a_moment_that_cannot_be_meant_is_refused_with_an_example(
    before: object, reason: str
) -> None:
    async def story(world: World) -> None:
        await first_start(world)
        world.ask("failover", before=before)
        await world.life(lambda _: "RequestRefused" in world.timeline())

    world = World()
    virtual_time.run(story(world))
    told = virtual_time.run(world.log.read(limit=1_000))
    (refusal,) = (e.event for e in told if isinstance(e.event, RequestRefused))
    assert reason in refusal.reason
    assert "2026-01-31T08:00:00+00:00" in refusal.hint
