"""A world in memory that behaves: markets, clouds, hosts, an endpoint, and a sync service.

It survives when the process under test dies, as the real one does. ``die_at`` kills the process
(once) right before its n-th append to the log, after the effect that led to it has happened.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from uuid import UUID

from services.recovery.actions import Pace, Tools, carry_out
from services.recovery.domain.obligations import assignment
from services.recovery.domain.state import Notice, Phase, State
from services.recovery.driver import Driver
from services.recovery.keeper import Keeper
from services.recovery.ports import (
    Backend,
    Copy,
    HostUnreachableError,
    NoCapacityError,
    NoGenerationError,
    NoticeError,
    Offer,
    Order,
    OutcomeUnknownError,
    Plan,
    Promotion,
    Rental,
    RentalStatus,
    Sighting,
)
from services.recovery.service import Recovery
from services.recovery.sweeper import Sweeper
from shared.assignments import Assignment, SyncMode
from shared.clock import Now
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.events import SPEAKER, Event
from shared.events.health import ThresholdReached
from shared.events.requests import RequestReceived
from shared.events.sync import GenerationConfirmed, RestoreDone, SyncCompleted
from shared.machines import Host, MachineId, Role, WorkspaceName
from shared.policy import Policy
from tests.support.virtual_time import START, now

WS = WorkspaceName("train")
PORT = 20000


class ProcessKilled(BaseException):
    """What kill -9 looks like from inside: nothing is caught, nothing is cleaned up."""


class Ids:
    """Identities in order, the same in every run."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> UUID:
        self._last += 1
        return UUID(int=self._last)


@dataclass
class Machine:
    """``generation`` is the newest on its disk: it lives and dies with the machine.

    ``hung``: it runs and does not answer until it is started anew.
    """

    rental: Rental
    role: Role
    orders: int = 1
    generation: str = ""
    spot: bool = True
    hung: bool = False


class MemoryCloud:
    """A provider and a market. ``answers_lost``: so many creations happen without an answer.

    ``no_room``: so many starts of stopped machines are refused for want of capacity;
    ``sold_out``: the market has no offer.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.machines: dict[str, Machine] = {}
        self.created: list[str] = []
        self.answers_lost = 0
        self.silent = 0
        self.undying = 0  # so many calls to stop change nothing
        self.alive_max = 0
        self.no_room = 0
        self.sold_out = False
        self._next = 100

    async def provision(self, order: Order) -> Rental:
        await asyncio.sleep(0.2)
        if self.silent:
            self.silent -= 1
            raise OutcomeUnknownError("nobody answers")
        for machine in self.machines.values():
            if machine.rental.label == order.label:
                return machine.rental
        self._next += 1
        provider_id = order.label if self.name == "gce" else str(self._next)
        rental = Rental(
            label=order.label,
            provider=self.name,
            provider_id=provider_id,
            status=RentalStatus.RUNNING,
            address=f"10.{len(self.name)}.0.{self._next - 100}",
            port=22,
            price_per_hour=0.2,
        )
        spot = order.policy.standby_spot
        self.machines[provider_id] = Machine(rental, order.role, spot=spot)
        self.created.append(order.label)
        self.alive_max = max(self.alive_max, len(self.running()))
        if self.answers_lost:
            self.answers_lost -= 1
            raise OutcomeUnknownError("the connection was cut")
        return rental

    async def get(self, provider_id: str) -> Rental | None:
        machine = self.machines.get(provider_id)
        return machine.rental if machine else None

    async def find(self, label: MachineId) -> tuple[Rental, ...]:
        return tuple(m.rental for m in self.machines.values() if m.rental.label == label)

    async def inventory(self, prefix: str) -> tuple[Rental, ...]:
        return tuple(m.rental for m in self.machines.values() if m.rental.label.startswith(prefix))

    async def start(self, provider_id: str) -> None:
        await asyncio.sleep(0.2)
        if self.no_room:
            self.no_room -= 1
            raise NoCapacityError("the zone has no room for e2-medium")
        self.set(provider_id, RentalStatus.RUNNING)
        self.machines[provider_id].hung = False

    async def stop(self, provider_id: str) -> bool:
        if self.undying:
            self.undying -= 1
            return False
        if provider_id in self.machines:
            self.set(provider_id, RentalStatus.STOPPED)
        return True

    async def destroy(self, provider_id: str) -> bool:
        self.machines.pop(provider_id, None)
        return True

    def set(self, provider_id: str, status: RentalStatus) -> None:
        machine = self.machines[provider_id]
        machine.rental = replace(machine.rental, status=status)

    def running(self) -> list[str]:
        return [
            m.rental.label
            for m in self.machines.values()
            if m.rental.status is RentalStatus.RUNNING
        ]

    async def search(self, policy: Policy) -> Sequence[Offer]:
        return (
            []
            if self.sold_out
            else [
                Offer(
                    id=str(n),
                    market_machine=f"m{n}",
                    owner=f"h{n}",
                    gpu_name="RTX 4090",
                    gpu_count=1,
                    gpu_ram_gb=24,
                    price_per_hour=0.2 + n / 100,
                    bid_min=0.1,
                    reliability=0.99,
                    country="JP",
                    down_mbps=500,
                    up_mbps=500,
                    direct_ports=10,
                    verified=True,
                )
                for n in range(5)
            ]
        )


class MemoryHosts:
    """Hosts that answer while their rental runs. ``log`` is what was done to them, in order."""

    def __init__(self, clouds: Sequence[MemoryCloud]) -> None:
        self._clouds = clouds
        self.epoch = -1
        self.serving = False
        self.frozen = False
        self.kept: list[Copy] = []
        self.log: list[str] = []

    async def answers(self, host: Host) -> bool:
        return await self.look(host, workspace=WS, epoch=0) is Sighting.ANSWERS

    async def locate(self, host: Host) -> Host:
        return host

    async def prepare(self, host: Host, plan: Plan) -> None:
        self._running(host)
        self.log.append(f"prepare {host.id}")

    async def look(self, host: Host, *, workspace: WorkspaceName, epoch: int) -> Sighting:
        try:
            self._running(host)
        except HostUnreachableError:
            return Sighting.SILENT
        return Sighting.ANSWERS

    async def copies(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int
    ) -> Sequence[Copy]:
        self._running(standby)
        return self.kept

    async def promote(
        self,
        standby: Host,
        *,
        workspace: WorkspaceName,
        epoch: int,
        serve: bool,
        generation: str = "",
    ) -> Promotion:
        machine = self._running(standby)
        machine.generation = generation or machine.generation
        assert epoch >= self.epoch, "an older epoch must never come back"
        self.epoch, self.serving, self.frozen = epoch, serve, False
        if serve and epoch and not machine.generation:
            raise NoGenerationError(f"{standby.id}: there is no generation to serve from")
        self.log.append(f"promote {epoch} {'serve' if serve else 'retire'}")
        return Promotion(generation=machine.generation, files=1, bytes=1000, age_seconds=1.0)

    def _running(self, host: Host) -> Machine:
        for cloud in self._clouds:
            machine = cloud.machines.get(host.provider_id)
            if machine and machine.rental.status is RentalStatus.RUNNING and not machine.hung:
                return machine
        raise HostUnreachableError(f"{host.id}: nobody answers")

    async def freeze(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int, timeout: float
    ) -> None:
        self.frozen = True
        self.log.append("freeze")

    async def thaw(self, standby: Host, *, workspace: WorkspaceName, epoch: int) -> None:
        self.frozen = False
        self.log.append("thaw")


class MemoryEndpoint:
    """``history`` has each change of where the port leads."""

    def __init__(self, clouds: Sequence[MemoryCloud]) -> None:
        self._clouds = clouds
        self.leads: Backend | None = None
        self.history: list[str] = []

    async def read(self) -> dict[int, Backend | None]:
        return {PORT: self.leads}

    async def point(self, port: int, backend: Backend | None) -> None:
        if backend != self.leads:
            self.leads = backend
            self.history.append(self._name(backend))

    async def seen(self, port: int, *, workspace: WorkspaceName, epoch: int) -> MachineId | None:
        for cloud in self._clouds:
            for machine in cloud.machines.values():
                rental = machine.rental
                here = self.leads == Backend(address=rental.address or "", port=rental.port or 0)
                if here and rental.status is RentalStatus.RUNNING:
                    return rental.label
        return None

    def _name(self, backend: Backend | None) -> str:
        if backend is None:
            return "nobody"
        for cloud in self._clouds:
            for machine in cloud.machines.values():
                if machine.rental.address == backend.address:
                    return str(machine.role)
        return "somebody"


class MemoryNotices:
    """``told`` is what people were told, by severity and text; ``silent`` so many tries fail."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.silent = 0

    async def send(self, workspace: WorkspaceName, notice: Notice) -> str:
        if self.silent:
            self.silent -= 1
            raise NoticeError("nobody answers")
        self.told.append((notice.severity, notice.text))
        return "log"


class DyingLog(MemoryLog):
    """The log outlives the process; ``die_at`` counts appends down to the kill.

    ``upon``: what happens to the world, once, in the moment an event of a type is recorded.
    """

    die_at: int | None = None
    appends = 0

    def __init__(self, *, now: Now) -> None:
        super().__init__(now=now)
        self.upon: dict[str, Callable[[], object]] = {}

    async def append(
        self, envelopes: Sequence[Envelope], *, term: int, expected_version: int
    ) -> list[Envelope]:
        self.appends += 1
        if self.die_at is not None and self.appends == self.die_at:
            raise ProcessKilled
        written = await super().append(envelopes, term=term, expected_version=expected_version)
        for envelope in written:
            self.upon.pop(envelope.event.type, lambda: None)()
        return written


@dataclass
class World:
    """Everything outside of the recovery process, and the process itself, started anew at will."""

    log: DyingLog = field(default_factory=lambda: DyingLog(now=now))
    vast: MemoryCloud = field(default_factory=lambda: MemoryCloud("vast"))
    gce: MemoryCloud = field(default_factory=lambda: MemoryCloud("gce"))
    new_id: Ids = field(default_factory=Ids)
    restarts: int = 0
    sweep_interval: float = 5.0
    said: int = 0

    def __post_init__(self) -> None:
        clouds = (self.vast, self.gce)
        self.hosts = MemoryHosts(clouds)
        self.endpoint = MemoryEndpoint(clouds)
        self.notices = MemoryNotices()
        self.recovery: Recovery | None = None
        self._waiting: list[tuple[int, Event]] = []
        self._reported: set[object] = set()
        self._confirmed = START

    def state(self) -> State:
        assert self.recovery is not None
        return self.recovery.state(WS)

    async def life(self, until: Callable[[State], bool], *, seconds: float = 3600.0) -> None:
        """Run the process, again and again if it dies, until the state is reached."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await self._one_life(until)
                    return
                except BaseExceptionGroup as group:
                    if not group.subgroup(ProcessKilled):
                        raise
                    self.restarts += 1
                    await asyncio.sleep(1.0)

    async def quiet(self, seconds: float) -> None:
        """Run the process for so long, with nothing to reach."""
        end = now() + timedelta(seconds=seconds)
        await self.life(lambda _: now() >= end, seconds=2 * seconds + 60)

    async def _one_life(self, until: Callable[[State], bool]) -> None:
        term = await self.log.acquire("recovery", 1_000_000)
        assert term is not None
        recovery = Recovery(
            self.log,
            term=lambda: term,
            now=now,
            new_id=self.new_id,
            installation="dumont",
            ports=[PORT],
        )
        self.recovery = recovery
        await recovery.load()
        keeper = Keeper(recovery, self.endpoint, interval=1.0, may_act=lambda: None)
        tools = Tools(
            recovery=recovery,
            providers={"vast": self.vast, "gce": self.gce},
            market=self.vast,
            hosts=self.hosts,
            keeper=keeper,
            notices=self.notices,
            bootstrap_public_key="ssh-ed25519 AAAA",
            host_ca=lambda workspace: f"ssh-ed25519 CA-of-{workspace}",
            may_act=lambda: None,
            now=now,
            pace=Pace(poll=1.0, settle=10.0),
        )
        loops = (
            Driver(recovery, partial(carry_out, tools), interval=0.5).run(),
            keeper.run(),
            Sweeper(
                recovery,
                {"vast": self.vast, "gce": self.gce},
                installation="dumont",
                interval=self.sweep_interval,
                now=now,
            ).run(),
            self._others_speak(recovery),
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop) for loop in loops]
            while WS not in recovery.states or not until(recovery.state(WS)):
                await asyncio.sleep(0.25)
            for task in tasks:
                task.cancel()

    # --- what others say -----------------------------------------------------------------------

    def say(self, event: Event) -> None:
        """Put a fact in the inbox: delivered until it is recorded."""
        self.said += 1
        self._waiting.append((self.said, event))

    def ask(self, verb: str, **arguments: object) -> None:
        self.say(
            RequestReceived(workspace=WS, epoch=0, verb=verb, actor="ada", arguments=arguments)
        )

    async def _others_speak(self, recovery: Recovery) -> None:
        while True:
            while self._waiting:
                number, event = self._waiting[0]
                envelope = Envelope(
                    id=UUID(int=(1 << 64) + number),
                    source=SPEAKER[event.type],
                    time=now(),
                    event=event,
                )
                await recovery.listen(envelope)
                self._waiting.pop(0)
            if WS in recovery.states and recovery.state(WS).phase is not Phase.UNREGISTERED:
                folded = recovery.states[WS]
                self._sync(
                    assignment(folded.state, position=folded.position, host_ca="", user_ca="")
                )
            await asyncio.sleep(1.0)

    def _sync(self, order: Assignment) -> None:
        """A sync service that does at once what it is told, and says so until it is recorded."""
        if order.mode is SyncMode.IDLE or order.standby is None:
            return
        source = order.primary if order.mode is SyncMode.MIRROR else order.standby
        key = (order.epoch, order.mode, order.seal, order.attempt)
        if source is None or not self._running(order.standby) or not self._running(source):
            return
        if key not in self._reported:
            self._reported.add(key)
            synced = _synced(order, source)
            self._machine(order.standby).generation = synced.generation
            self._confirmed = now()
            self.say(synced)
            return
        if (now() - self._confirmed).total_seconds() > order.policy.generation_age_max / 3:
            self._confirmed = now()
            self.say(_confirmed(order, source, self._machine(order.standby).generation))
        if order.candidate is None or order.mode not in {SyncMode.RESTORE, SyncMode.FINAL}:
            return
        done = (*key, order.round, "restored")
        if done not in self._reported:
            self._reported.add(done)
            self.say(_restored(order, order.candidate))

    # --- what happens to it --------------------------------------------------------------------

    def _machine(self, host: Host) -> Machine:
        cloud = self.gce if host.provider_id in self.gce.machines else self.vast
        return cloud.machines[host.provider_id]

    def _running(self, host: Host) -> bool:
        known = {**self.gce.machines, **self.vast.machines}.get(host.provider_id)
        return known is not None and known.rental.status is RentalStatus.RUNNING

    def preempt(self) -> Host:
        """The provider takes the standby away; its disk stays."""
        standby = self.state().standby.host
        assert standby is not None
        self.gce.set(standby.provider_id, RentalStatus.STOPPED)
        return standby

    def delete_standby(self) -> Host:
        """The standby is no more, disk and all."""
        standby = self.state().standby.host
        assert standby is not None
        del self.gce.machines[standby.provider_id]
        return standby

    def threshold(self, host: Host, role: Role, reason: str = "no answer") -> None:
        """What health says of a host that it holds for dead."""
        self.say(
            ThresholdReached(
                workspace=WS,
                epoch=self.state().epoch,
                machine=host.id,
                role=role,
                failures=3,
                threshold=3,
                reason=reason,
                positive=False,
            )
        )

    def outbid(self, host: Host) -> None:
        self.vast.set(host.provider_id, RentalStatus.STOPPED)

    def lose(self, host: Host) -> None:
        """Outbid it, and let health see it."""
        self.outbid(host)
        self.say(
            ThresholdReached(
                workspace=WS,
                epoch=self.state().epoch,
                machine=host.id,
                role=Role.GPU,
                failures=3,
                threshold=3,
                reason="vast says stopped",
                positive=True,
            )
        )

    def timeline(self) -> list[str]:
        return [record.type for record in self.log.rows]


def _synced(order: Assignment, source: Host) -> SyncCompleted:
    return SyncCompleted(
        workspace=WS,
        epoch=order.epoch,
        generation=f"e{order.epoch:06d}-{order.seal:08d}",
        sequence=order.seal,
        source=source.id,
        files=1,
        bytes=1000,
        bytes_changed=10,
        manifest_sha256="00",
        seconds=1.0,
        completed_at=now(),
        taken_at=now(),
        seal=order.seal,
        standby=order.standby.id if order.standby else None,
    )


def _confirmed(order: Assignment, source: Host, generation: str) -> GenerationConfirmed:
    return GenerationConfirmed(
        workspace=WS,
        epoch=order.epoch,
        generation=generation,
        source=source.id,
        taken_at=now(),
    )


def _restored(order: Assignment, candidate: Host) -> RestoreDone:
    return RestoreDone(
        workspace=WS,
        epoch=order.epoch,
        machine=candidate.id,
        attempt=order.attempt,
        round=order.round,
        final=order.mode is SyncMode.FINAL,
        generation="g",
        files=1,
        bytes=1000,
        bytes_copied=1000,
        manifest_sha256="00",
        seconds=1.0,
    )
