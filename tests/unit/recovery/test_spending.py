"""Spend guards: what ends is renting, never a machine in service."""

from dataclasses import replace
from datetime import timedelta

import pytest

from services.recovery.domain import effects
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import Phase, Step
from services.recovery.ports import RentalStatus
from shared.events import Event
from shared.events.recovery import (
    OrphanDestroyed,
    PrimaryFenced,
    ProvisionRequested,
    RecoveryHalted,
    SpendLimitReached,
    WaitScheduled,
)
from shared.events.sync import RestoreFailed
from shared.machines import Host, MachineId, Role
from shared.policy import Policy
from tests.support import virtual_time
from tests.support.examples import WS, Story
from tests.support.faults import fault
from tests.support.world import Machine, World
from tests.unit.recovery.test_service import first_start, syncing


def a_flapping_attempt(story: Story, *, minutes: float) -> None:
    """A GPU is rented, paid for so long, lost, and seen to be gone."""
    story.offer()
    number, label = story.state.attempt.number, story.state.attempt.label
    assert label is not None
    story.provisioned(label, price=0.5)
    story.ready()
    story.now += timedelta(minutes=minutes)
    host = story.state.attempt.host
    assert host is not None
    story.tell(
        RestoreFailed(
            workspace=WS,
            epoch=story.state.epoch,
            machine=host.id,
            attempt=number,
            round=1,
            reason="connection lost",
            candidate_lost=True,
        )
    )
    story.tell(
        OrphanDestroyed(
            workspace=WS,
            epoch=story.state.epoch,
            machine=host.id,
            provider_id=host.provider_id,
            reason="attempt ended",
            seen_at=story.now,
        )
    )
    story.wait(60)


def seen_stopped(story: Story, host: Host) -> None:
    story.tell(
        PrimaryFenced(
            workspace=WS,
            epoch=story.state.epoch,
            machine=host.id,
            provider_id=host.provider_id,
            how="stopped",
            seen_at=story.now,
        )
    )


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


@fault(70)
def test_a_workspace_that_flaps_is_halted_when_its_incident_costs_too_much() -> None:
    story = Story().searching()
    story.state = replace(story.state, policy=Policy(spend_incident_max=1.0, spend_hour_max=9.0))
    for _ in range(4):
        a_flapping_attempt(story, minutes=31)
    told, halt = story.offer()
    assert isinstance(told, SpendLimitReached)
    assert told.window == "incident"
    assert told.spent >= told.maximum == 1.0
    assert isinstance(halt, RecoveryHalted)
    assert halt.code == "spending"
    assert "1.03 $" in halt.reason
    assert story.phase() is Phase.HALTED


def test_recover_allows_as_much_once_more() -> None:
    story = Story().searching()
    story.state = replace(story.state, policy=Policy(spend_incident_max=1.0, spend_hour_max=9.0))
    for _ in range(4):
        a_flapping_attempt(story, minutes=31)
    story.offer()
    story.now += timedelta(minutes=1)
    story.ask("recover")
    assert kinds(story.offer()) == [ProvisionRequested]


@pytest.mark.parametrize("window", ["hour", "day"])
def test_a_limit_that_passes_with_time_is_waited_for_and_told_once(window: str) -> None:
    story = Story().searching()
    story.state = replace(
        story.state,
        policy=Policy(
            spend_hour_max=0.2 if window == "hour" else 9.0,
            spend_day_max=0.2 if window == "day" else 9.0,
            spend_incident_max=9.0,
        ),
    )
    a_flapping_attempt(story, minutes=30)
    assert kinds(story.offer()) == [SpendLimitReached, WaitScheduled]
    assert story.state.wait_until is not None
    story.wait((story.state.wait_until - story.now).total_seconds())
    assert effects.SearchOffers in {type(effect) for effect in pending(story.state)}
    assert kinds(story.offer()) == [WaitScheduled], "people were told already"
    story.wait(24 * 3600)
    assert kinds(story.offer()) == [ProvisionRequested], "the window has passed"


def test_a_gpu_in_service_for_a_day_at_the_highest_price_is_within_every_limit() -> None:
    story = Story()
    story.price = Policy().gpu_price_max
    host = story.syncing()
    story.now += timedelta(days=1)
    story.failover(host)
    seen_stopped(story, host)
    assert kinds(story.offer()) == [ProvisionRequested]


def test_nothing_is_searched_before_the_last_gpu_was_seen_to_its_end() -> None:
    story = Story()
    host = story.syncing()
    story.failover(host)
    assert story.state.step is Step.SEARCHING
    owed = {type(effect) for effect in pending(story.state)}
    assert effects.Fence in owed
    assert effects.SearchOffers not in owed
    seen_stopped(story, host)
    assert effects.SearchOffers in {type(effect) for effect in pending(story.state)}


@fault(46)
def test_nothing_is_rented_beside_a_machine_that_the_provider_still_shows_running() -> None:
    async def story(world: World) -> None:
        await first_start(world)
        lost = world.state().primary
        assert lost is not None
        # A machine that the log knows nothing of, left by whoever wrote before.
        stray = replace(
            world.vast.machines[lost.provider_id].rental,
            label=MachineId("dumont-train-e0-a9"),
            provider_id="900",
            status=RentalStatus.RUNNING,
        )
        world.lose(lost)
        world.vast.machines["900"] = Machine(stray, Role.GPU)
        await world.life(syncing(3))

    world = World()
    world.sweep_interval = 1e6  # nobody else looks for it
    virtual_time.run(story(world))
    assert world.vast.running() == ["dumont-train-e2-a1"]
    assert world.vast.alive_max == 1, "it ended before the next one was rented"


@fault(59)
def test_a_gpu_whose_host_left_the_market_costs_nothing_and_does_not_hold_up_the_next() -> None:
    async def story(world: World) -> None:
        await first_start(world)
        lost = world.state().primary
        assert lost is not None
        world.lose(lost)
        world.vast.set(lost.provider_id, RentalStatus.LOST)
        world.vast.undying = 10_000  # told to stop, and never seen to
        await world.life(lambda state: state.phase is Phase.SYNCING and state.epoch == 3)

    world = World()
    virtual_time.run(story(world))
    assert "FenceDelayed" in world.timeline()
    assert world.vast.running() == ["dumont-train-e2-a1"]
    (owed,) = world.state().condemned
    assert not owed.seen, "its end is still awaited"
