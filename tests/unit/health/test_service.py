"""The health service as a whole: assignments in, events out, on a clock of the test's own."""

import asyncio
import heapq
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.health.domain.detector import Brake, ProviderView, Ssh, Subject, Tcp
from services.health.ports import Reached, Report
from services.health.service import Health
from shared import assignments
from shared.assignments import Assignment, SyncMode
from shared.bus.memory import MemoryBus
from shared.machines import Host, MachineId, WorkspaceName
from shared.policy import Policy
from shared.subjects import STREAM_INBOX
from tests.support.faults import fault

pytestmark = pytest.mark.anyio

START = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL = 10.0
POLICY = Policy(health_interval=INTERVAL, failover_threshold=3)
UP = Reached(Tcp.CONNECTS, Ssh.ANSWERS, heartbeat={"load": 0.5})
DOWN = Reached(Tcp.SILENT, Ssh.NOT_TRIED, "no answer")


def host(name: str, address: str = "127.0.0.1") -> Host:
    return Host(id=MachineId(name), provider="vast", provider_id=name, address=address, port=22)


GPU, STANDBY = host("gpu"), host("standby", "127.0.0.2")


def assignment(name: str = "train", **fields: object) -> Assignment:
    plain = Assignment(
        workspace=WorkspaceName(name),
        epoch=1,
        position=10,
        mode=SyncMode.MIRROR,
        path="/workspace",
        policy=POLICY,
        primary=GPU,
        standby=STANDBY,
        watch=(GPU, STANDBY),
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


class VirtualClock:
    """Time passes only when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    async def sleep(self, seconds: float) -> None:
        waking = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.seconds + seconds, next(self._order), waking))
        await waking

    async def advance(self, seconds: float) -> None:
        until = self.seconds + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            self.seconds, _, waking = heapq.heappop(self._sleepers)
            if not waking.done():
                waking.set_result(None)
            await settle()
        self.seconds = until


async def settle() -> None:
    """Let every task run until it waits for time or for news."""
    for _ in range(50):
        await asyncio.sleep(0)


@dataclass
class World:
    """What the hosts and their provider show, by machine."""

    clock: VirtualClock
    bus: MemoryBus = field(default_factory=MemoryBus)
    reached: dict[str, Reached] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    looks: list[Subject] = field(default_factory=list)
    on_look: Callable[[], None] = lambda: None
    samples: list[dict[str, object]] = field(default_factory=list)
    was_ready: bool = False

    async def look(self, subject: Subject, *, host_ca: str, timeout: float) -> Reached:
        self.looks.append(subject)
        self.on_look()
        return self.reached.get(subject.host.id, UP)

    async def report(self, provider_id: str, *, max_age: float) -> Report:
        return self.reports.get(provider_id, Report(ProviderView.RUNNING))

    async def assign(self, *given: Assignment) -> None:
        for one in given:
            await self.bus.put(one.workspace, assignments.encode(one))
        await settle()

    def said(self) -> list[str]:
        events = [envelope.event for envelope in self.bus.published(STREAM_INBOX)]
        return [f"{getattr(event, 'machine', '')} {event.type}" for event in events]

    def ready(self) -> None:
        self.was_ready = True

    async def hear(self, _subject: str, body: bytes) -> None:
        self.samples.append(json.loads(body))


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    clock = VirtualClock()
    world = World(clock)
    await world.bus.subscribe("dumont.telemetry.health.*.check", world.hear)
    ids = (UUID(int=number) for number in itertools.count(1))
    health = Health(
        world.bus,
        providers={"vast": world},
        reach=world,
        now=clock.now,
        new_id=lambda: next(ids),
        ready=world.ready,
        brake=Brake(share=1.0, hosts_min=3),
        monotonic=clock.monotonic,
        sleep=clock.sleep,
    )
    task = asyncio.create_task(health.run())
    await settle()
    try:
        yield world
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_dead_gpu_is_reported_check_by_check_up_to_the_threshold() -> None:
    async with running() as world:
        await world.assign(assignment())
        world.reached["gpu"] = DOWN
        await world.clock.advance(3 * INTERVAL)
        assert world.said() == ["gpu HealthFailed"] * 3 + ["gpu ThresholdReached"]


async def test_a_gpu_that_answers_again_is_restored() -> None:
    async with running() as world:
        await world.assign(assignment())
        world.reached["gpu"] = DOWN
        await world.clock.advance(INTERVAL)
        world.reached["gpu"] = UP
        await world.clock.advance(INTERVAL)
        assert world.said() == ["gpu HealthFailed", "gpu HealthRestored"]


async def test_an_outbid_gpu_is_a_positive_report() -> None:
    async with running() as world:
        world.reports["gpu"] = Report(ProviderView.STOPPED, "outbid")
        await world.assign(assignment(policy=replace(POLICY, failover_threshold=1)))
        reached = world.bus.published(STREAM_INBOX)[-1].event
        assert reached.type == "ThresholdReached"
        assert getattr(reached, "positive", False)
        assert getattr(reached, "reason", "") == "the provider says: outbid"


async def test_each_check_is_telemetry() -> None:
    async with running() as world:
        await world.assign(assignment())
        await world.clock.advance(INTERVAL)
        assert len(world.samples) == 4
        sample = next(one for one in world.samples if one["machine"] == "gpu")
        assert sample["verdict"] == "ok"
        assert sample["heartbeat"] == {"load": 0.5}


@fault(1)
async def test_a_new_epoch_begins_the_count_anew() -> None:
    async with running() as world:
        world.reached["gpu"] = DOWN
        await world.assign(assignment())
        await world.clock.advance(INTERVAL)
        await world.assign(assignment(epoch=2, position=11))
        await world.clock.advance(INTERVAL)
        failures = [getattr(e.event, "failures", 0) for e in world.bus.published(STREAM_INBOX)]
        assert failures == [1, 2, 1, 2]


async def test_a_newer_policy_keeps_the_count() -> None:
    async with running() as world:
        world.reached["gpu"] = DOWN
        await world.assign(assignment())
        await world.assign(assignment(position=11, policy=replace(POLICY, failover_threshold=2)))
        await world.clock.advance(INTERVAL)
        assert world.said()[-1] == "gpu ThresholdReached"


@fault(28)
async def test_an_older_assignment_is_ignored() -> None:
    async with running() as world:
        await world.assign(assignment(epoch=2))
        await world.assign(assignment(epoch=1, position=99, watch=()))
        looks = len(world.looks)
        await world.clock.advance(INTERVAL)
        assert {subject.epoch for subject in world.looks[looks:]} == {2}


async def test_a_host_that_left_its_role_is_watched_no_more() -> None:
    async with running() as world:
        await world.assign(assignment())
        await world.assign(assignment(position=11, watch=(STANDBY,)))
        looks = len(world.looks)
        await world.clock.advance(3 * INTERVAL)
        assert {subject.host.id for subject in world.looks[looks:]} == {"standby"}


async def test_a_removed_workspace_is_watched_no_more() -> None:
    async with running() as world:
        await world.assign(assignment())
        await world.assign(assignment(position=11, removed=True))
        looks = len(world.looks)
        await world.clock.advance(3 * INTERVAL)
        assert len(world.looks) == looks


async def test_the_standby_is_watched_in_its_own_role() -> None:
    async with running() as world:
        world.reached["standby"] = DOWN
        await world.assign(assignment())
        (envelope,) = world.bus.published(STREAM_INBOX)
        assert getattr(envelope.event, "role", "") == "standby"


async def test_an_assignment_that_cannot_be_read_does_not_stop_the_others() -> None:
    async with running() as world:
        await world.bus.put("broken", b"{")
        await world.assign(assignment())
        assert {subject.host.id for subject in world.looks} == {"gpu", "standby"}


@fault(2, 22)
async def test_an_event_that_the_bus_did_not_take_is_published_once_when_it_is_back() -> None:
    async with running() as world:
        await world.assign(assignment())
        world.reached["gpu"] = DOWN
        world.bus.connected = False
        await world.clock.advance(4 * INTERVAL)
        world.bus.connected = True
        await world.clock.advance(2.0)
        failures = [getattr(e.event, "failures", 0) for e in world.bus.published(STREAM_INBOX)]
        assert failures == [1, 2], "the checks of the time without a bus are not caught up"


@fault(53)
async def test_when_every_host_is_silent_at_once_nothing_reaches_a_threshold() -> None:
    async with running() as world:
        other = host("gpu-2")
        await world.assign(assignment(), assignment("other", primary=other, watch=(other,)))
        world.reached = {"gpu": DOWN, "standby": DOWN, "gpu-2": DOWN}
        await world.clock.advance(10 * INTERVAL)
        assert not [said for said in world.said() if "ThresholdReached" in said]
        assert world.samples[-1]["verdict"] == "unknown"


@fault(18)
async def test_a_process_that_was_stopped_does_not_blame_the_host() -> None:
    async with running() as world:
        await world.assign(assignment())
        world.reached["gpu"] = DOWN

        def stop_for_a_minute() -> None:
            world.clock.seconds += 60
            world.on_look = lambda: None

        world.on_look = stop_for_a_minute
        await world.clock.advance(INTERVAL)
        assert world.said() == []


async def test_the_service_is_ready_once_it_has_read_the_assignments() -> None:
    async with running() as world:
        assert world.was_ready
