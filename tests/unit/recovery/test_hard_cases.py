"""What a hostile reading of the recovery core found: each test is a story that must not happen."""

import asyncio
import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from services.recovery.domain import effects
from services.recovery.domain.decider import failover_limitation
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import End, Phase, Serving, State, Step
from services.recovery.domain.sweep import zombie
from services.recovery.domain.world import Backend, Rental, RentalStatus
from services.recovery.driver import Driver
from services.recovery.keeper import Keeper
from services.recovery.ports import EndpointError
from services.recovery.service import Recovery
from shared.codec import from_data, to_data
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.events import Event
from shared.events.recovery import (
    ProvisionFailed,
    RequestRefused,
    StandbyLost,
    StandbyProvisioned,
    StandbyRestored,
    StandbyThawed,
    WorkspaceRegistered,
)
from shared.events.requests import RequestReceived
from shared.events.sync import RestoreDone
from shared.machines import MachineId, Role, WorkspaceName
from tests.support import virtual_time
from tests.support.examples import STANDBY, WS, Story
from tests.support.faults import fault
from tests.support.situations import fail_standby, lose_standby
from tests.support.world import Ids, Machine, World


def owed(state: State) -> set[type]:
    """What is owed to machines; what people are told is tried in test_notices."""
    return {type(effect) for effect in pending(state)} - {effects.SendNotice}


def thaw(story: Story) -> None:
    epoch, attempt = story.state.epoch, story.state.attempt.number
    story.tell(StandbyThawed(workspace=WS, epoch=epoch, attempt=attempt))


def switching() -> Story:
    story = Story().searching()
    story.restoring()
    story.sync()
    story.restore_done()
    story.frozen()
    story.sync()
    story.restore_done(final=True)
    assert story.state.step is Step.SWITCHING
    return story


# --- the standby holds the data


@fault(72)
def test_a_standby_that_cannot_be_revived_now_is_not_destroyed_with_the_only_copy() -> None:
    story = Story()
    story.failover(story.syncing())
    assert story.state.serving is Serving.STANDBY
    lose_standby(story)
    fail_standby(story)
    assert STANDBY.id not in {c.machine for c in story.state.condemned}


@fault(73)
def test_a_new_and_empty_standby_protects_nothing_until_it_has_a_generation() -> None:
    story = Story()
    story.syncing()
    lose_standby(story)
    fail_standby(story)
    story.wait(3600)
    fresh = replace(STANDBY, id=MachineId("dumont-train-standby-2"), provider_id="z/standby-2")
    story.tell(StandbyProvisioned(workspace=WS, epoch=1, attempt=2, host=fresh))
    limitation = failover_limitation(story.state, now=story.now)
    assert limitation is not None
    assert "no sealed generation" in limitation


def test_a_standby_lost_while_it_is_frozen_is_revived_before_it_is_thawed() -> None:
    story = Story().searching()
    story.restoring()
    story.restore_done()
    lose_standby(story)
    story.wait(61)
    assert story.state.standby.thaw_owed
    assert effects.ProvisionStandby in owed(story.state), "nobody could ever be let in again"


@pytest.mark.parametrize("step", [Step.FREEZING, Step.SWITCHING])
def test_a_standby_revived_during_the_way_back_does_not_serve_people(step: Step) -> None:
    story = switching()
    if step is Step.FREEZING:
        story = Story().searching()
        story.restoring()
        story.restore_done()
    lose_standby(story)
    assert not [
        e for e in pending(story.state) if isinstance(e, effects.ProvisionStandby) and e.serve
    ]


@fault(72)
def test_a_standby_revived_during_a_failover_does_not_undo_the_promotion() -> None:
    story = Story()
    host = story.syncing()
    story.ask("failover")
    assert story.phase() is Phase.FAILING_OVER
    lose_standby(story)
    assert not [
        e for e in pending(story.state) if isinstance(e, effects.ProvisionStandby) and not e.serve
    ], f"{host.id}: retire and promote of one epoch would race"


def test_a_listing_older_than_the_fence_does_not_close_the_salvage_window() -> None:
    async def story(world: World) -> None:
        world.ask("register", path="/workspace", origin="empty")
        await world.life(lambda s: s.phase is Phase.SYNCING and not s.resume_owed)
        await asyncio.sleep(60)
        lost = world.state().primary
        assert lost is not None
        listed = world.vast.inventory

        async def inventory(prefix: str) -> tuple[Rental, ...]:
            rows = await listed(prefix)
            await asyncio.sleep(4.0)  # many pages, few calls allowed
            return rows

        world.vast.inventory = inventory  # type: ignore[method-assign]
        world.ask("failover")
        await world.life(lambda s: s.phase is Phase.SYNCING and s.epoch == 3)

    world = World()
    virtual_time.run(story(world))
    assert "ZombieSeen" not in world.timeline()


def test_the_sweeper_leaves_a_revived_standby_alone_that_had_to_move_to_another_zone() -> None:
    story = Story()
    story.syncing()
    lose_standby(story)
    assert zombie(story.state, rental("gce", STANDBY.id, "zone-b/standby-1"), story.now) is None


# --- the way back


@fault(28)
def test_a_last_pass_of_an_earlier_freeze_does_not_end_a_later_one() -> None:
    story = Story().searching()
    host = story.restoring()
    story.sync()
    story.restore_done()
    story.frozen()
    late = RestoreDone(
        workspace=WS,
        epoch=0,
        machine=host.id,
        attempt=1,
        round=story.state.attempt.round,
        final=True,
        generation=story.state.generation,
        files=3,
        bytes=1000,
        bytes_copied=10,
        manifest_sha256="00",
        seconds=1.0,
    )
    story.wait(61)  # aborted: people write on the standby again
    thaw(story)
    story.wait(31)
    story.restore_done()
    story.frozen()
    assert story.state.step is Step.LAST_DELTA
    story.tell(late)
    assert story.state.step is Step.LAST_DELTA, "what was written in between would be lost"


def test_a_gpu_that_may_have_served_is_not_destroyed_when_the_switch_is_late() -> None:
    story = switching()
    host = story.state.attempt.host
    assert host is not None
    story.wait(61)
    ends = {c.end for c in story.state.condemned if c.machine == host.id}
    assert End.DESTROY not in ends, "people may have written there since the endpoint moved"


def test_the_standby_does_not_take_over_again_when_it_is_lost_itself() -> None:
    story = switching()
    lose_standby(story)
    story.wait(61)
    assert story.phase() is not Phase.FAILING_OVER


def test_a_standby_lost_during_the_switch_does_not_keep_people_out() -> None:
    story = switching()
    lose_standby(story)
    (switch,) = [e for e in pending(story.state) if isinstance(e, effects.SwitchToGpu)]
    assert switch.standby is None, "it would wait for ever for a machine that is gone"
    assert effects.ProvisionStandby in owed(story.state)


def test_an_empty_standby_does_not_take_over_from_a_late_switch() -> None:
    story = switching()
    lose_standby(story)
    fresh = replace(STANDBY, provider_id="another-disk")
    story.tell(StandbyRestored(workspace=WS, epoch=story.state.epoch, host=fresh))
    story.wait(61)
    assert story.state.step is Step.SWITCHING, "people would find an empty workspace"


def test_failbacks_that_keep_failing_disturb_people_less_and_less() -> None:
    story = Story().searching()
    story.restoring()
    waits: list[float] = []
    for _ in range(16):
        story.restore_done()
        assert story.state.step is Step.FREEZING
        story.wait(61)
        if story.state.wait_until is None:
            return  # the attempt was given up: as good
        waits.append((story.state.wait_until - story.now).total_seconds())
        thaw(story)
        story.restore_done()
        story.wait(waits[-1] + 1)
    assert waits[-1] > waits[0]


@fault(66)
def test_an_exhausted_market_is_tried_again_with_the_machines_that_failed_before() -> None:
    story = Story().searching()
    for n in range(3):
        story.offer(n)
        story.tell(failed(story, "rent"))
        story.wait(3600)
    story.tell(failed(story, "search"))
    story.wait(3600)
    assert story.state.excluded == frozenset()


# --- failover


def test_a_death_is_not_concluded_after_the_standby_was_lost() -> None:
    story = Story()
    story.suspect(story.syncing())
    lose_standby(story)
    assert effects.ConfirmDeath not in owed(story.state)


def test_a_death_is_not_concluded_after_a_person_said_pause() -> None:
    story = Story()
    story.suspect(story.syncing())
    story.ask("pause")
    assert effects.ConfirmDeath not in owed(story.state)


# --- adopted, removed


def adopted_vast() -> dict[str, object]:
    return {
        "id": "train-adopted",
        "provider": "vast",
        "provider_id": "77",
        "address": "",
        "port": 0,
    }


def test_an_adopted_vast_instance_is_looked_up_since_only_its_number_is_known() -> None:
    async def story(world: World) -> None:
        machine = replace(rental("vast", "mine", "77"), address="10.4.0.77", port=22)
        world.vast.machines["77"] = Machine(machine, Role.GPU)
        world.ask("register", path="/workspace", origin="adopted", adopted=adopted_vast())
        await world.life(lambda s: s.phase is Phase.SYNCING)
        primary = world.state().primary
        assert primary is not None
        assert (primary.address, primary.port) == ("10.4.0.77", 22)

    virtual_time.run(story(World()))


def own_host() -> dict[str, object]:
    return {**adopted_vast(), "provider": "ssh", "address": "127.0.0.9", "port": 22}


def adopted_and_failed_over() -> Story:
    story = Story()
    story.ask("register", path="/workspace", origin="adopted", adopted=adopted_vast())
    story.tell(StandbyProvisioned(workspace=WS, epoch=0, attempt=1, host=STANDBY))
    primary = story.state.primary
    assert primary is not None
    story.sync(primary)
    story.ask("failover")
    return story


@fault(48)
def test_an_adopted_gpu_that_the_market_runs_again_is_stopped_again_and_not_destroyed() -> None:
    story = adopted_and_failed_over()
    (kept,) = story.state.condemned
    story.state = replace(story.state, condemned=(replace(kept, seen=True),))
    seen = zombie(story.state, rental("vast", "dumont-train-e0-a1", "77"), story.now)
    assert seen is not None
    story.tell(seen)
    assert [c.end for c in story.state.condemned] == [End.STOP]


def test_an_adopted_gpu_with_a_label_of_ours_outlives_the_workspace() -> None:
    story = Story()
    story.ask("register", path="/workspace", origin="adopted", adopted=adopted_vast())
    story.ask("remove")
    assert zombie(story.state, rental("vast", "dumont-train-e0-a1", "77"), story.now) is None


def test_a_standby_that_shows_up_after_the_removal_is_swept() -> None:
    story = Story()
    story.ask("register", path="/workspace", origin="empty")
    story.ask("remove")
    story.state = replace(story.state, condemned=())  # its settling time is over
    assert zombie(story.state, rental("gce", STANDBY.id, "zone/standby-1"), story.now) is not None


def test_a_standby_that_is_being_made_anew_ends_with_its_workspace_wherever_it_is() -> None:
    story = Story()
    story.syncing()
    lose_standby(story)
    story.ask("remove")
    moved = rental("gce", STANDBY.id, "zone-b/standby-1")
    assert zombie(story.state, moved, story.now) is None, "its end is owed already, by its label"


# --- requests


@fault(90)
@pytest.mark.parametrize(
    "arguments",
    [
        {"policy": ["gpu_price_max"]},
        {"policy": {"gpu_price_max": 10**400}},
        {"policy": {"ssh_timeout": 1e300}},
        {"policy": {"freeze_timeout": 1e300}},
        {"origin": ["empty"]},
        {"path": "/workspace/../etc"},
        {"path": "/var/lib/dumont"},
        {"path": "//etc"},
        {"standby": {**own_host(), "port": "abc"}},
        {"standby": {**own_host(), "provider": 7}},
        {"standby": {**own_host(), "provider": "elsewhere"}},
    ],
    ids=lambda a: str(a)[:40],
)
def test_no_registration_can_raise_or_poison_the_log(arguments: dict[str, object]) -> None:
    story = Story()
    told = story.ask("register", **arguments)
    for event in told:
        from_data(event.type, event.version, to_data(event))
    assert [type(event) for event in told] == [RequestRefused]


def test_an_accept_is_not_kept_in_store_for_a_shrinkage_that_nobody_has_seen() -> None:
    story = Story()
    story.syncing()
    told = story.ask("accept")
    assert not story.state.accept_shrink, "a wiped source could be sealed unasked"
    assert [type(event) for event in told] == [RequestRefused]


@fault(90)
def test_what_is_refused_never_reaches_the_log_in_a_form_that_no_start_can_read() -> None:
    async def story() -> MemoryLog:
        log, recovery = await a_recovery()
        request = RequestReceived(
            workspace=WS,
            epoch=0,
            verb="register",
            actor="ada",
            arguments={"standby": {**own_host(), "port": "abc"}},
        )
        with contextlib.suppress(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            await recovery.listen(
                Envelope(id=UUID(int=7), source="api", time=virtual_time.now(), event=request)
            )
        return log

    asyncio.run(virtual_time.run(story()).read())


def test_a_driver_ends_when_it_is_cancelled_in_the_turn_in_which_something_is_recorded() -> None:
    async def nothing(*_: object) -> Sequence[Event]:
        return ()

    async def story() -> bool:
        _, recovery = await a_recovery()
        driver = asyncio.create_task(Driver(recovery, nothing, interval=100.0).run())
        await asyncio.sleep(1.0)
        await recovery.observe(registration("a", 20000))
        driver.cancel()
        ended, _ = await asyncio.wait([driver], timeout=10.0)
        driver.cancel()
        return bool(ended)

    assert virtual_time.run(story()), "it would go on under a lease that was lost"


# --- the endpoint


class HalfDeadEndpoint:
    """One of its ports cannot be pointed."""

    def __init__(self) -> None:
        self.leads: dict[int, Backend | None] = {20000: None, 20001: None}

    async def read(self) -> dict[int, Backend | None]:
        return dict(self.leads)

    async def point(self, port: int, backend: Backend | None) -> None:
        if port == 20000:
            raise EndpointError("'standby.example.org' is not an IP address")
        self.leads[port] = backend

    async def seen(self, port: int, *, workspace: WorkspaceName, epoch: int) -> MachineId | None:
        return None


def test_one_endpoint_that_cannot_be_pointed_does_not_hold_up_the_others() -> None:
    async def story() -> dict[int, Backend | None]:
        _, recovery = await a_recovery()
        for name, port in (("a", 20000), ("b", 20001)):
            await recovery.observe(registration(name, port))
            await recovery.observe(
                StandbyProvisioned(workspace=WorkspaceName(name), epoch=0, attempt=1, host=STANDBY)
            )
        endpoint = HalfDeadEndpoint()
        with contextlib.suppress(EndpointError):
            await Keeper(recovery, endpoint, interval=1.0, may_act=lambda: None).settle()
        return endpoint.leads

    assert virtual_time.run(story())[20001] is not None


async def a_recovery() -> tuple[MemoryLog, Recovery]:
    log = MemoryLog(now=virtual_time.now)
    term = await log.acquire("recovery", 1000)
    assert term is not None
    recovery = Recovery(
        log,
        term=lambda: term,
        now=virtual_time.now,
        new_id=Ids(),
        installation="dumont",
        ports=[20000, 20001],
    )
    return log, recovery


def registration(name: str, port: int) -> WorkspaceRegistered:
    story = Story()
    story.ask("register", path="/workspace", origin="empty")
    event = story.told[1]
    assert isinstance(event, WorkspaceRegistered)
    return replace(event, workspace=WorkspaceName(name), endpoint_port=port)


def rental(provider: str, label: str, provider_id: str) -> Rental:
    return Rental(
        label=MachineId(label),
        provider=provider,
        provider_id=provider_id,
        status=RentalStatus.RUNNING,
        address=None,
        port=None,
        price_per_hour=0.2,
    )


def failed(story: Story, stage: str) -> ProvisionFailed:
    return ProvisionFailed(
        workspace=WS,
        epoch=story.state.epoch,
        role=Role.GPU,
        attempt=story.state.attempt.number,
        stage=stage,
        reason="no",
    )


def test_a_removal_ends_the_lost_standby_and_the_one_that_may_be_on_its_way() -> None:
    story = Story()
    story.syncing()
    story.tell(StandbyLost(workspace=WS, epoch=1, machine=STANDBY.id, reason="preempted"))
    story.ask("remove")
    ends = {(c.machine, c.provider_id) for c in story.state.condemned if c.provider == "gce"}
    assert ends == {(STANDBY.id, STANDBY.provider_id), (STANDBY.id, "")}
