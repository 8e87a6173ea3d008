"""A market and a cloud on the wire: they refuse, keep silent, lie, and lose answers.

They stand where the HTTP clients stand, so the product's own adapters run over them.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeVar
from uuid import UUID

from lab.machines import Fleet, Machine, Power
from lab.wire import Wire
from shared.clouds.errors import (
    AuthError,
    CloudError,
    NoAnswerError,
    NoCapacityNowError,
    NoSuchAskError,
    NotFoundError,
    RefusedError,
    ServerFailedError,
)
from shared.clouds.gce_answers import Vm, VmSpec
from shared.clouds.vast_answers import Ask, Instance

T = TypeVar("T")

OFFERS = 8
TIMEOUT_SECONDS = 10.0


@dataclass(slots=True)
class Moods:
    """How a cloud is at the moment; shares of calls, and seconds."""

    silent: bool = False  # nobody answers, nothing happens
    unreached: bool = False  # the same, because our own network is down
    refuses_key: bool = False
    sold_out: bool = False
    offers_gone: float = 0.0  # creates that find the offer taken
    answers_lost: float = 0.0  # changes that happen, and the answer never comes
    calls_lost: float = 0.0  # changes that do not happen, and no answer comes
    fails: float = 0.0  # any call: 500
    lists_empty: bool = False
    hides_new: float = 0.0  # a new machine is not shown for so long
    leaves_behind: float = 0.0  # refused creates that made a machine all the same
    unsuitable: float = 0.0  # machines that lack what is needed
    never_boots: float = 0.0
    destroy_lies: float = 0.0


@dataclass(slots=True)
class Watchers:
    """Who is told of what the control plane does to a cloud."""

    creating: Callable[[str, str], None] = lambda _, __: None
    destroying: Callable[[str, Machine], None] = lambda _, __: None
    listed: Callable[[str, list[Machine]], None] = lambda _, __: None
    gone: Callable[[Machine], None] = lambda _: None
    met: Callable[[str], None] = lambda _: None


class Cloud:
    """What both have in common: moods, latency, lost answers."""

    def __init__(
        self, name: str, fleet: Fleet, chance: Random, watchers: Watchers, *, boot: float = 40.0
    ) -> None:
        self.name = name
        self.moods = Moods()
        self.fleet = fleet
        self.chance = chance
        self.watchers = watchers
        self.boot = boot
        self.wire = Wire(chance, latency=0.5)
        self.numbers = 100

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def machines(self) -> list[Machine]:
        return self.fleet.of_provider(self.name)

    def new_machine(self, label: str, provider_id: str) -> Machine:
        """A machine comes up, at its pace and with its flaws."""
        moods, chance = self.moods, self.chance
        now = self.now
        boots = now + self.boot * (0.5 + chance.random())
        if self._happens(moods.never_boots):
            self.watchers.met(f"{self.name}: never boots")
            boots = now + 1e9
        machine = Machine(
            provider=self.name,
            provider_id=provider_id,
            label=label,
            address=f"10.{len(self.name)}.{self.numbers >> 8}.{self.numbers & 255}",
            port=22,
            created_at=now,
            boots_at=boots,
            shown_at=now + chance.random() * moods.hides_new,
            unsuitable=self._happens(moods.unsuitable),
            well_since=boots,
            identity=self.numbers,
        )
        self.fleet.add(machine)
        return machine

    async def _read(self, call: Callable[[], T]) -> T:
        await self._answering()
        return await self.wire.call(call)

    async def _change(self, call: Callable[[], T], *, takes: float = 0.0) -> T:
        await self._answering()
        lost = NoAnswerError(f"{self.name}: no answer")
        if self._happens(self.moods.calls_lost):
            self.watchers.met(f"{self.name}: call lost")
            await self.wire.nothing(lost, after=TIMEOUT_SECONDS)
        if self._happens(self.moods.answers_lost):
            self.watchers.met(f"{self.name}: answer lost")
            return await self.wire.call(call, takes=takes, lost=lost, patience=TIMEOUT_SECONDS)
        return await self.wire.call(call, takes=takes)

    async def _answering(self) -> None:
        error: CloudError | None = None
        if self.moods.silent or self.moods.unreached:
            await self.wire.nothing(NoAnswerError(f"{self.name}: no answer"), after=TIMEOUT_SECONDS)
        if self.moods.refuses_key:
            error = AuthError(f"{self.name}: 401", status=401)
        elif self._happens(self.moods.fails):
            error = ServerFailedError(f"{self.name}: 500", status=500)
        if error is not None:
            await self.wire.nothing(error, after=0.2)

    def _happens(self, share: float) -> bool:
        return share > 0 and self.chance.random() < share


class Market(Cloud):
    """Implements ``shared.clouds.port.Vast``."""

    async def search(
        self,
        filters: Mapping[str, Mapping[str, object]],
        *,
        storage_gb: float,
        limit: int,
        kind: str = "bid",
    ) -> list[Ask]:
        return await self._read(lambda: [] if self.moods.sold_out else list(_ASKS))

    async def create(
        self,
        ask: int,
        *,
        label: str,
        image: str,
        disk_gb: float,
        bid: float | None,
        onstart: str = "",
    ) -> int:
        self.watchers.creating(self.name, label)

        def create() -> int:
            if self.moods.sold_out or self._happens(self.moods.offers_gone):
                self.watchers.met("vast: offer gone")
                raise NoSuchAskError("vast create: no_such_ask", code="no_such_ask")
            self.numbers += 1
            machine = self.new_machine(label, str(self.numbers))
            machine.market_machine = ask
            if self._happens(self.moods.destroy_lies):
                machine.destroy_lies = 1 + int(self.chance.random() * 3)
            if self._happens(self.moods.leaves_behind):
                self.watchers.met("vast: refused and left behind")
                raise RefusedError(
                    "vast create: bid too low", code="bid_too_low", created=machine.provider_id
                )
            return int(machine.provider_id)

        return await self._change(create)

    async def instance(self, instance: int) -> Instance | None:
        def show() -> Instance | None:
            machine = self.fleet.by_id.get((self.name, str(instance)))
            if machine is None:
                return None
            if not machine.billed:
                self.watchers.gone(machine)
                return None
            return self._row(machine) if self.now >= machine.shown_at else None

        return await self._read(show)

    async def instances(self) -> list[Instance]:
        def listed() -> list[Instance]:
            if self.moods.lists_empty:
                self.watchers.met("vast: empty list")
                return []
            shown = [m for m in self.machines() if self.now >= m.shown_at]
            self.watchers.listed(self.name, shown)
            return [self._row(machine) for machine in shown]

        return await self._read(listed)

    async def start(self, instance: int) -> None:
        def start() -> None:
            machine = self._existing(instance)
            if machine.power is not Power.ON:
                power_on(machine, self.now, self.now + self.boot)

        await self._change(start)

    async def stop(self, instance: int) -> None:
        def stop() -> None:
            machine = self._existing(instance)
            self.watchers.destroying("stop", machine)
            power_off(machine)

        await self._change(stop)

    async def destroy(self, instance: int) -> None:
        def destroy() -> None:
            machine = self._existing(instance)
            self.watchers.destroying("destroy", machine)
            if machine.destroy_lies:
                machine.destroy_lies -= 1
                self.watchers.met("vast: destroy lies")
                return
            machine.power, machine.row = Power.GONE, None

        await self._change(destroy)

    async def ssh_keys(self) -> list[str]:
        return ["ssh-ed25519 AAAA"]

    async def add_ssh_key(self, public_key: str) -> None:
        """Every key is known here."""

    def _existing(self, instance: int) -> Machine:
        machine = self.fleet.by_id.get((self.name, str(instance)))
        if machine is None or not machine.billed:
            raise NotFoundError("vast: no_such_instance", status=404)
        return machine

    def _row(self, machine: Machine) -> Instance:
        booting = self.now < machine.boots_at
        if isinstance(machine.row, tuple) and machine.row[0] is booting:
            return machine.row[1]  # type: ignore[no-any-return]
        if machine.power is Power.STOPPED:
            intended, actual, state = "stopped", "exited", "stopped"
        elif booting:
            intended, actual, state = "running", "loading", "running"
        else:
            intended, actual, state = "running", "running", "running"
        row = Instance.model_construct(
            id=int(machine.provider_id),
            label=machine.label,
            machine_id=machine.market_machine,
            intended_status=intended,
            actual_status="offline" if machine.said_offline else actual,
            cur_state=state,
            is_bid=True,
            ssh_host=machine.address,
            ssh_port=machine.port,
            dph_total=0.2,
            num_gpus=1,
            gpu_name="RTX 4090",
            geolocation="JP",
        )
        machine.row = (booting, row)
        return row


class Project(Cloud):
    """Implements ``shared.clouds.port.Gce``."""

    poll = 1.0

    async def get(self, zone: str, name: str) -> Vm | None:
        return await self._read(lambda: self._vm(self._find(zone, name)))

    async def all(self) -> list[Vm]:
        def listed() -> list[Vm]:
            if self.moods.lists_empty:
                self.watchers.met("gce: empty list")
                return []
            found = self.machines()
            self.watchers.listed(self.name, found)
            return [vm for machine in found if (vm := self._vm(machine)) is not None]

        return await self._read(listed)

    async def insert(self, zone: str, spec: VmSpec, *, request_id: UUID, within: float) -> None:
        self.watchers.creating(self.name, spec.name)

        def insert() -> None:
            if self._find(zone, spec.name) is not None:
                raise RefusedError("gce: alreadyExists", code="alreadyExists", status=409)
            if self.moods.sold_out:
                self.watchers.met("gce: sold out")
                raise NoCapacityNowError("gce: ZONE_RESOURCE_POOL_EXHAUSTED")
            self.numbers += 1
            machine = self.new_machine(spec.name, f"{zone}/{spec.name}")
            machine.zone, machine.spot = zone, spec.spot
            machine.machine_type, machine.labels = spec.machine_type, spec.labels

        await self._change(insert)

    async def start(self, zone: str, name: str, *, within: float) -> None:
        def start() -> None:
            machine = self._existing(zone, name)
            if self.moods.sold_out:
                raise NoCapacityNowError("gce: ZONE_RESOURCE_POOL_EXHAUSTED")
            if machine.power is not Power.ON:
                power_on(machine, self.now, self.now + self.boot)

        await self._change(start)

    async def stop(self, zone: str, name: str, *, within: float) -> None:
        def stop() -> None:
            machine = self._existing(zone, name)
            self.watchers.destroying("stop", machine)
            power_off(machine)

        await self._change(stop)

    async def delete(self, zone: str, name: str, *, within: float) -> None:
        def delete() -> None:
            machine = self._existing(zone, name)
            self.watchers.destroying("destroy", machine)
            machine.power = Power.GONE

        await self._change(delete)

    def _find(self, zone: str, name: str) -> Machine | None:
        machine = self.fleet.by_id.get((self.name, f"{zone}/{name}"))
        return machine if machine is not None and machine.billed else None

    def _existing(self, zone: str, name: str) -> Machine:
        machine = self._find(zone, name)
        if machine is None:
            raise NotFoundError("gce: not found", status=404)
        return machine

    def _vm(self, machine: Machine | None) -> Vm | None:
        if machine is None:
            return None
        running = "STAGING" if self.now < machine.boots_at else "RUNNING"
        return Vm(
            name=machine.label,
            zone=machine.zone,
            id=machine.identity,
            status=running if machine.power is Power.ON else "TERMINATED",
            address=machine.address if machine.power is Power.ON else None,
            machine_type=machine.machine_type,
            spot=machine.spot,
            labels=machine.labels,
        )


def power_on(machine: Machine, now: float, boots_at: float) -> None:
    machine.power, machine.row = Power.ON, None
    machine.silent = machine.said_offline = False
    machine.boots_at = machine.well_since = max(now, boots_at)


def power_off(machine: Machine) -> None:
    """Stopped: what ran there has ended, what is on its disk stays."""
    machine.power, machine.row, machine.resumes_at = Power.STOPPED, None, None
    for job in machine.disk.jobs:
        job.ended = True
    machine.disk.jobs.clear()
    if machine.disk.live is not None:
        machine.disk.live.busy = False


_ASKS = tuple(
    Ask(
        id=n,
        machine_id=n,
        host_id=n,
        num_gpus=1,
        gpu_name="RTX 4090",
        gpu_ram=24_564.0,
        disk_space=500.0,
        dph_total=0.2 + n / 1000,
        min_bid=0.1,
        reliability=0.99,
        geolocation="Tokyo, JP",
        inet_up=500.0,
        inet_down=500.0,
        direct_port_count=10,
        verification="verified",
        rentable=True,
        rented=False,
    )
    for n in range(1, OFFERS + 1)
)
"""What the market offers."""
