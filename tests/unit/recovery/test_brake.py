"""Many GPUs at once: what is held, what is not, and what it costs to find out."""

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from services.recovery.actions import Pace, Tools, carry_out
from services.recovery.domain.brake import Brake, held, witnesses
from services.recovery.domain.effects import ConfirmDeath, Effect, SearchOffers
from services.recovery.domain.state import Phase, Step
from services.recovery.driver import Driver
from services.recovery.keeper import Keeper
from services.recovery.ports import Rental, RentalStatus, Sighting
from services.recovery.service import Recovery
from shared.envelope import Envelope
from shared.events import SPEAKER, Event
from shared.events.health import ThresholdReached
from shared.events.recovery import (
    FailoverCompleted,
    FailoverStarted,
    GpuReady,
    OfferSelected,
    PrimaryFenced,
    StandbyProvisioned,
    WorkspaceRegistered,
)
from shared.events.sync import SyncCompleted
from shared.machines import Host, MachineId, Role, WorkspaceName
from shared.policy import Policy
from tests.support import virtual_time
from tests.support.faults import fault
from tests.support.virtual_time import now
from tests.support.world import (
    DyingLog,
    Ids,
    Machine,
    MemoryCloud,
    MemoryEndpoint,
    MemoryHosts,
    MemoryNotices,
)

LOOK_SECONDS = 5.0


class Hosts(MemoryHosts):
    """Hosts whose silence costs a look its whole time; ``looks`` counts what was asked of them."""

    def __init__(self) -> None:
        super().__init__(())
        self.silent: set[MachineId] = set()
        self.looks = 0

    async def look(self, host: Host, *, workspace: WorkspaceName, epoch: int) -> Sighting:
        self.looks += 1
        if host.id in self.silent:
            await asyncio.sleep(LOOK_SECONDS)
            return Sighting.SILENT
        return Sighting.ANSWERS


@dataclass
class Fleet:
    """Many workspaces in service, and the part of recovery that gives up a GPU."""

    count: int
    log: DyingLog = field(default_factory=lambda: DyingLog(now=now))
    vast: MemoryCloud = field(default_factory=lambda: MemoryCloud("vast"))
    hosts: Hosts = field(default_factory=Hosts)
    new_id: Ids = field(default_factory=Ids)

    async def serve(self) -> None:
        term = await self.log.acquire("recovery", 1_000_000)
        assert term is not None
        self.recovery = Recovery(
            self.log,
            term=lambda: term,
            now=now,
            new_id=self.new_id,
            installation="dumont",
            ports=range(20000, 20000 + self.count),
        )
        self.names = [WorkspaceName(f"ws-{n}") for n in range(self.count)]
        for port, name in enumerate(self.names, start=20000):
            await self._register(name, port)
        keeper = Keeper(self.recovery, MemoryEndpoint(()), interval=1.0, may_act=lambda: None)
        self.tools = Tools(
            recovery=self.recovery,
            providers={"vast": self.vast},
            market=None,
            hosts=self.hosts,
            keeper=keeper,
            notices=MemoryNotices(),
            bootstrap_public_key="ssh-ed25519 AAAA",
            host_ca=str,
            may_act=lambda: None,
            now=now,
            pace=Pace(),
        )

    async def _register(self, name: WorkspaceName, port: int) -> None:
        gpu, standby = self.gpu(name), replace(self.gpu(name), id=MachineId(f"{name}-standby"))
        self.vast.machines[gpu.provider_id] = _running(gpu)
        for event in (
            WorkspaceRegistered(
                workspace=name,
                epoch=0,
                path="/workspace",
                origin="adopted",
                policy=Policy(),
                endpoint_port=port,
                adopted=gpu,
            ),
            StandbyProvisioned(workspace=name, epoch=0, attempt=1, host=standby),
            GpuReady(workspace=name, epoch=0, attempt=0, host=gpu, restore_deadline=now()),
        ):
            await self.recovery.observe(event)
        await self.say(_synced(name, gpu))
        assert self.recovery.state(name).phase is Phase.SYNCING

    def gpu(self, name: WorkspaceName) -> Host:
        number = name.removeprefix("ws-")
        return Host(
            id=MachineId(f"{name}-gpu"),
            provider="vast",
            provider_id=number,
            address=f"10.4.0.{int(number) % 250 + 1}",
            port=22,
        )

    async def say(self, event: Event) -> None:
        source = SPEAKER[event.type]
        await self.recovery.listen(
            Envelope(id=self.new_id(), source=source, time=now(), event=event)
        )

    async def suspect(self, name: WorkspaceName, *, positive: bool = False) -> None:
        await self.say(
            ThresholdReached(
                workspace=name,
                epoch=0,
                machine=self.gpu(name).id,
                role=Role.GPU,
                failures=3,
                threshold=3,
                reason="no answer",
                positive=positive,
                seen_at=virtual_time.now(),
            )
        )

    def fall_silent(self, *names: WorkspaceName) -> None:
        self.hosts.silent |= {self.gpu(name).id for name in names}

    async def run(self, seconds: float) -> None:
        """Only looks are carried out: what follows a failover is not tried here."""

        async def only_looks(workspace: WorkspaceName, effect: Effect) -> tuple[Event, ...]:
            if isinstance(effect, ConfirmDeath):
                return tuple(await carry_out(self.tools, workspace, effect))
            await asyncio.Event().wait()
            return ()

        driver = asyncio.create_task(Driver(self.recovery, only_looks, interval=1.0).run())
        await asyncio.sleep(seconds)
        driver.cancel()

    def given_up(self) -> list[WorkspaceName]:
        states = (self.recovery.state(name) for name in self.names)
        return [state.workspace for state in states if state.phase is not Phase.SYNCING]

    def count_of(self, type_: str) -> int:
        return sum(record.type == type_ for record in self.log.rows)


def _running(host: Host) -> Machine:
    return Machine(
        Rental(
            label=host.id,
            provider="vast",
            provider_id=host.provider_id,
            status=RentalStatus.RUNNING,
            address=host.address,
            port=host.port,
            price_per_hour=0.2,
        ),
        Role.GPU,
    )


def _synced(name: WorkspaceName, source: Host) -> SyncCompleted:
    return SyncCompleted(
        workspace=name,
        epoch=0,
        generation="e000000-00000001",
        sequence=1,
        source=source.id,
        files=1,
        bytes=1000,
        bytes_changed=10,
        manifest_sha256="00",
        seconds=1.0,
        completed_at=now(),
        taken_at=now(),
        seal=0,
    )


# --- the decision ---------------------------------------------------------------------------------

SILENT, ANSWERS = Sighting.SILENT, Sighting.ANSWERS


@fault(53)
@pytest.mark.parametrize(
    ("sightings", "holds"),
    [
        ([SILENT] * 10, True),
        ([SILENT] * 6 + [ANSWERS] * 4, True),
        ([SILENT] * 5 + [ANSWERS] * 5, False),
        ([SILENT] + [ANSWERS] * 4, False),
        ([Sighting.UNKNOWN] * 4 + [SILENT] + [ANSWERS], True),
        ([], False),
    ],
)
def test_silence_of_more_than_half_is_our_own(sightings: list[Sighting], holds: bool) -> None:
    assert bool(held(sightings, Brake())) is holds


# --- the fleet, on virtual time -------------------------------------------------------------------


@fault(53)
def test_nothing_is_given_up_when_all_fall_silent_at_once_and_each_says_why() -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.serve()
        fleet.fall_silent(*fleet.names)
        for name in fleet.names:
            await fleet.suspect(name)
        await fleet.run(3600)

    fleet = Fleet(count=10)
    virtual_time.run(story(fleet))
    assert fleet.given_up() == []
    for name in fleet.names:
        suspicion = fleet.recovery.state(name).suspicion
        assert suspicion is not None
        assert "our own network is in doubt" in suspicion.refused
        notices = fleet.recovery.state(name).notices
        assert sum("seems dead" in notice.text for notice in notices) == 1, "told once, not hourly"
    assert fleet.count_of("FailoverRefused") <= 10 * 70, "looked at ever more rarely"


@fault(53)
def test_after_a_hold_it_goes_on_by_itself_when_the_gpus_answer_again() -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.serve()
        fleet.fall_silent(*fleet.names)
        for name in fleet.names:
            await fleet.suspect(name)
        await fleet.run(600)
        fleet.hosts.silent.clear()
        await fleet.run(90)

    fleet = Fleet(count=10)
    virtual_time.run(story(fleet))
    assert fleet.given_up() == []
    assert all(fleet.recovery.state(name).suspicion is None for name in fleet.names)


@fault(53)
def test_a_positive_report_of_the_provider_is_never_held() -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.serve()
        fleet.fall_silent(*fleet.names)
        for name in fleet.names:
            fleet.vast.set(fleet.gpu(name).provider_id, RentalStatus.STOPPED)
            await fleet.suspect(name, positive=True)
        await fleet.run(60)

    fleet = Fleet(count=10)
    virtual_time.run(story(fleet))
    assert fleet.given_up() == fleet.names


@fault(53)
def test_a_gpu_that_is_held_is_given_up_as_soon_as_its_provider_says_that_it_is_gone() -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.serve()
        fleet.fall_silent(*fleet.names)
        for name in fleet.names:
            await fleet.suspect(name)
        await fleet.run(1800)
        dead = fleet.names[3]
        fleet.vast.set(fleet.gpu(dead).provider_id, RentalStatus.STOPPED)
        await fleet.suspect(dead, positive=True)
        await fleet.run(LOOK_SECONDS + 2)

    fleet = Fleet(count=10)
    virtual_time.run(story(fleet))
    assert fleet.given_up() == [fleet.names[3]]


@pytest.mark.parametrize(("count", "silent"), [(4, 4), (10, 1), (10, 5)])
def test_few_silent_gpus_are_given_up_as_ever(count: int, silent: int) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.serve()
        fleet.fall_silent(*fleet.names[:silent])
        for name in fleet.names[:silent]:
            await fleet.suspect(name)
        await fleet.run(60)

    fleet = Fleet(count=count)
    virtual_time.run(story(fleet))
    assert fleet.given_up() == fleet.names[:silent]


@fault(96)
@pytest.mark.parametrize("positive", [False, True])
def test_a_health_service_that_cries_wolf_for_all_fails_over_nothing(positive: bool) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.serve()
        for _ in range(20):
            for name in fleet.names:
                await fleet.suspect(name, positive=positive)
            await fleet.run(2)

    fleet = Fleet(count=10)
    virtual_time.run(story(fleet))
    assert fleet.given_up() == []
    assert fleet.hosts.looks <= 400, "one look at it and its standby for each cry at the most"


@fault(100, 53)
def test_three_hundred_that_fall_silent_together_cost_one_round_of_looks_not_one_each() -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.serve()
        fleet.fall_silent(*fleet.names)
        for name in fleet.names:
            await fleet.suspect(name)
        await fleet.run(LOOK_SECONDS * 2 + 1)

    fleet = Fleet(count=300)
    virtual_time.run(story(fleet))
    assert fleet.given_up() == []
    sample = len(witnesses([f.state for f in fleet.recovery.states.values()], Brake()))
    assert sample <= 16
    assert fleet.hosts.looks == 2 * 300 + sample, "each and its standby, and the witnesses once"


# --- getting them back ----------------------------------------------------------------------------


@fault(60, 100)
def test_workspaces_that_search_at_the_same_time_do_not_take_each_others_offers() -> None:
    async def story(fleet: Fleet) -> list[str]:
        await fleet.serve()
        tools = replace(fleet.tools, market=fleet.vast)
        for name in fleet.names:
            await _searches(fleet, name)
        outcomes = await asyncio.gather(
            *(carry_out(tools, name, SearchOffers(attempt=1, epoch=1)) for name in fleet.names)
        )
        return [event.offer for (event,) in outcomes if isinstance(event, OfferSelected)]

    offers = virtual_time.run(story(Fleet(count=5)))
    assert sorted(offers) == ["0", "1", "2", "3", "4"]


async def _searches(fleet: Fleet, name: WorkspaceName) -> None:
    gpu = fleet.gpu(name).id
    for event in (
        FailoverStarted(workspace=name, epoch=1, machine=gpu, reason="outbid"),
        FailoverCompleted(
            workspace=name,
            epoch=1,
            standby=MachineId(f"{name}-standby"),
            generation="e000000-00000001",
            seconds=1.0,
        ),
        PrimaryFenced(
            workspace=name,
            epoch=1,
            machine=gpu,
            provider_id=fleet.gpu(name).provider_id,
            how="stopped",
        ),
    ):
        await fleet.recovery.observe(event)
    assert fleet.recovery.state(name).step is Step.SEARCHING
