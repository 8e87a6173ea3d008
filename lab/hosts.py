"""Hosts with their gate: the epoch fence, generations, promotion, freeze, restore. And who looks.

Each method stands where the product speaks SSH; the rules are those of ``shared/gate/program``.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import NoReturn, TypeVar

from lab.clock import START
from lab.machines import EMPTY, Content, Disk, Fleet, Generation, Job, Live, Machine
from lab.wire import Wire
from services.health.domain.detector import Ssh, Subject, Tcp
from services.health.ports import Reached
from services.recovery.ports import (
    Copy,
    HostUnreachableError,
    HostUnsuitableError,
    NoGenerationError,
    Plan,
    Promotion,
    Sighting,
)
from services.sync.ports import (
    CandidateLostError,
    DataPlaneError,
    OutdatedError,
    Progress,
    Pushed,
    Sealed,
    ShrunkError,
)
from shared.assignments import Assignment
from shared.machines import Host, Role, WorkspaceName

T = TypeVar("T")

LOGIN_SECONDS = 5.0
FIRST_PASS_SECONDS = 90.0
WATCH_SECONDS = 300.0
"""About so often something changes on a GPU, on top of what people are seen to write."""
BYTES = 1_000_000
GENERATIONS_KEPT = 20


@dataclass(slots=True, kw_only=True)
class Moods:
    """How the paths between machines are at the moment."""

    controller_deaf: bool = False  # the controller's own network is down: nobody answers it
    passes_fail: float = 0.0  # transfers that break
    slow: float = 1.0  # how much longer transfers take
    epoch_checked: bool = True  # the gate's own check; off to try whether it matters
    promotes_sealed_only: bool = True


@dataclass(slots=True, kw_only=True)
class Witness:
    """Who is told of what happens on hosts."""

    wrote: Callable[[str, int, int, Disk], None] = lambda *_: None
    sealed: Callable[[Disk, Generation], None] = lambda *_: None
    served: Callable[[Disk, Generation | None, Content], None] = lambda *_: None
    placed: Callable[[Machine, Content], None] = lambda *_: None
    met: Callable[[str], None] = lambda _: None


class Grounds:
    """All hosts, and the gate on each."""

    def __init__(self, fleet: Fleet, chance: Random, witness: Witness) -> None:
        self.fleet = fleet
        self.chance = chance
        self.witness = witness
        self.moods = Moods()
        self.wire = Wire(chance, latency=0.1)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def reached(self, host: Host, *, by_controller: bool = True) -> Machine | None:
        """The machine that answers at this host's address, if one does."""
        machine = self.fleet.by_address.get(host.address) or self.fleet.of(host)
        if machine is None or not machine.up(self.now):
            return None
        if by_controller and (machine.cut_off or self.moods.controller_deaf):
            return None
        return machine

    def demand(self, what: str, disk: Disk, epoch: int) -> str:
        """Why the gate refuses a session of this epoch; empty when it does not."""
        stale = disk.epoch != epoch
        if stale and self.moods.epoch_checked:
            self.witness.met("gate: stale epoch refused")
            return f"this session has epoch {epoch}, the host is at epoch {disk.epoch}"
        self.witness.wrote(what, epoch, disk.epoch, disk)
        return ""


def raise_epoch(disk: Disk, epoch: int, *, ends_jobs: bool = True) -> None:
    disk.epoch = epoch
    for job in disk.jobs:
        job.ended = job.ended or (ends_jobs and job.epoch < epoch)
    disk.jobs = [job for job in disk.jobs if not job.ended]


class LabHosts:
    """Implements ``Hosts`` of the recovery service's ports."""

    def __init__(self, grounds: Grounds) -> None:
        self._grounds = grounds

    async def answers(self, host: Host) -> bool:
        if self._grounds.reached(host) is None:
            await asyncio.sleep(LOGIN_SECONDS)
            return False
        return True

    async def locate(self, host: Host) -> Host:
        machine = self._grounds.fleet.of(host)
        return replace(host, address=machine.address) if machine else host

    async def prepare(self, host: Host, plan: Plan) -> None:
        def prepare(machine: Machine) -> None:
            disk = machine.disk
            if machine.unsuitable:
                self._grounds.witness.met("host: unsuitable")
                raise HostUnsuitableError(f"{host.id}: it has no rsync")
            if disk.epoch > plan.epoch:
                raise HostUnsuitableError(f"{host.id}: it is at epoch {disk.epoch}")
            disk.workspace, disk.role = plan.workspace, plan.role.value
            disk.machine, disk.adopted = host.id, plan.adopted
            raise_epoch(disk, plan.epoch)

        await self._on(host, prepare, takes=5.0)

    async def look(self, host: Host, *, workspace: WorkspaceName, epoch: int) -> Sighting:
        grounds = self._grounds
        machine = await grounds.wire.call(lambda: grounds.reached(host))
        if machine is None:
            await asyncio.sleep(3.0)
            return Sighting.SILENT
        return Sighting.ANSWERS if machine.disk.machine == host.id else Sighting.UNKNOWN

    async def copies(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int
    ) -> Sequence[Copy]:
        def listed(machine: Machine) -> list[Copy]:
            times = [START + timedelta(seconds=g.taken_at) for g in machine.disk.generations]
            return [
                Copy(generation=g.id, taken_at=at, sealed_at=at, whole=g.sealed)
                for g, at in zip(machine.disk.generations, times, strict=True)
            ]

        return await self._on(standby, listed, takes=0.3)

    async def promote(
        self,
        standby: Host,
        *,
        workspace: WorkspaceName,
        epoch: int,
        serve: bool,
        generation: str = "",
    ) -> Promotion:
        grounds = self._grounds

        def promote(machine: Machine) -> Promotion:
            disk = machine.disk
            if disk.workspace != workspace or disk.role != Role.STANDBY.value:
                raise HostUnreachableError(f"{standby.id}: no gate of {workspace} there")
            if disk.epoch > epoch and grounds.moods.epoch_checked:
                grounds.witness.met("gate: stale promotion refused")
                raise HostUnsuitableError(f"{standby.id}: it is at epoch {disk.epoch}")
            grounds.witness.wrote("promote", epoch, max(epoch, disk.epoch), disk)
            if disk.epoch > epoch:
                grounds.witness.wrote("promote", epoch, disk.epoch, disk)
            raise_epoch(disk, epoch, ends_jobs=grounds.moods.epoch_checked)
            if serve:
                if generation and disk.live is None:
                    disk.go_back_to(generation)
                self._serve(machine, epoch)
            else:
                disk.live = None
            newest = disk.newest()
            return Promotion(
                generation=newest.id if newest else "",
                files=1,
                bytes=BYTES,
                age_seconds=grounds.now - newest.taken_at if newest else None,
            )

        return await self._on(standby, promote, takes=0.3)

    def _serve(self, machine: Machine, epoch: int) -> None:
        disk = machine.disk
        if disk.live is not None:
            if disk.live.frozen and disk.live.epoch >= epoch:
                return
            disk.live.frozen, disk.live.epoch = False, epoch
            return
        newest = disk.newest()
        if not self._grounds.moods.promotes_sealed_only and disk.generations:
            newest = disk.generations[-1]
        if newest is None and epoch != 0:
            raise NoGenerationError(f"{disk.machine}: there is no generation to serve from")
        content = newest.content if newest else EMPTY
        disk.live = Live(content, epoch)
        self._grounds.witness.served(disk, newest, content)

    async def freeze(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int, timeout: float
    ) -> None:
        def freeze(machine: Machine) -> None:
            live = self._live(standby, machine, epoch, "freeze")
            live.busy, live.frozen = False, True

        await self._on(standby, freeze, takes=self._grounds.chance.random() * 2)

    async def thaw(self, standby: Host, *, workspace: WorkspaceName, epoch: int) -> None:
        def thaw(machine: Machine) -> None:
            self._live(standby, machine, epoch, "thaw").frozen = False

        await self._on(standby, thaw)

    def _live(self, standby: Host, machine: Machine, epoch: int, what: str) -> Live:
        if refusal := self._grounds.demand(what, machine.disk, epoch):
            raise HostUnsuitableError(f"{standby.id}: {refusal}")
        if machine.disk.live is None:
            raise HostUnsuitableError(f"{standby.id}: the standby does not serve")
        return machine.disk.live

    async def _on(self, host: Host, effect: Callable[[Machine], T], *, takes: float = 0.0) -> T:
        """Do something on a host, if it is there by then."""
        grounds = self._grounds

        def there() -> T:
            machine = grounds.reached(host)
            if machine is None:
                raise HostUnreachableError(f"{host.id}: nobody answers")
            return effect(machine)

        return await grounds.wire.call(there, takes=takes)


class LabPlane:
    """Implements ``DataPlane`` of the sync service's ports."""

    def __init__(self, grounds: Grounds) -> None:
        self._grounds = grounds

    async def pull(self, assignment: Assignment) -> Sealed:
        primary = assignment.primary
        assert primary is not None

        def source() -> Content:
            machine = self._grounds.reached(primary, by_controller=False)
            if machine is None or machine.disk.tree is None:
                raise DataPlaneError("source-unreachable", "the source does not answer")
            return machine.disk.tree

        return await self._copy(assignment, source, str(primary.id))

    async def follow(self, assignment: Assignment, on_change: Callable[[], None]) -> None:
        """People write now and then; the watch hears of it until one of the hosts is gone."""
        primary, standby = assignment.primary, assignment.standby
        assert primary is not None and standby is not None
        while True:
            self._standby(standby)
            if self._grounds.reached(primary, by_controller=False) is None:
                raise DataPlaneError("source-unreachable", "the source does not answer")
            on_change()
            await asyncio.sleep(self._seconds(WATCH_SECONDS))

    async def seal(self, assignment: Assignment) -> Sealed:
        standby = assignment.standby
        assert standby is not None

        def source() -> Content:
            machine = self._standby(standby)
            if machine.disk.live is None:
                raise DataPlaneError("source-missing", "the standby does not serve")
            return machine.disk.live.content

        return await self._copy(assignment, source, str(standby.id))

    async def _copy(
        self, assignment: Assignment, source: Callable[[], Content], name: str
    ) -> Sealed:
        grounds, epoch, standby = self._grounds, assignment.epoch, assignment.standby
        assert standby is not None

        def begin() -> tuple[Machine, Job, Content]:
            machine = self._standby(standby)
            self._demand("copy", machine, epoch)
            content = source()
            job = Job(epoch)
            machine.disk.jobs.append(job)
            return machine, job, content

        machine, job, partial = await grounds.wire.call(begin)
        first = machine.disk.newest() is None
        seconds = self._seconds(FIRST_PASS_SECONDS if first else 3.0)
        breaks = self._breaks()
        taken: list[Content] = []

        def take() -> None:
            """The source is read some time before its copy is sealed."""
            self._still(machine, job)
            try:
                taken.append(source())
            except DataPlaneError:
                # What arrived so far is there, and is no generation.
                machine.disk.jobs.remove(job)
                self._keep(machine.disk, epoch, partial, name, sealed=False)
                raise

        def seal() -> Sealed:
            self._still(machine, job)
            disk = machine.disk
            disk.jobs.remove(job)
            if breaks:
                self._keep(disk, epoch, taken[0], name, sealed=False)
                raise DataPlaneError("source-broke", "the transfer broke")
            return self._sealed(machine, assignment, taken[0], name, seconds)

        try:
            await grounds.wire.call(take, takes=seconds * 0.7)
            return await grounds.wire.call(seal, takes=seconds * 0.3)
        except asyncio.CancelledError:
            job.ended = True
            raise

    def _sealed(
        self,
        machine: Machine,
        assignment: Assignment,
        content: Content,
        name: str,
        seconds: float,
    ) -> Sealed:
        disk, epoch = machine.disk, assignment.epoch
        newest = disk.newest()
        wiped = newest is not None and content is EMPTY and newest.content is not EMPTY
        if wiped and not assignment.accept_shrink:
            self._grounds.witness.met("gate: shrunken source held")
            raise ShrunkError(
                "the source shrank", files_before=9, files_now=0, bytes_before=9, bytes_now=0
            )
        changed = newest is None or newest.content is not content
        # One from before what people went back from is sealed anew, to be the newest of all.
        changed = changed or newest is not disk.sealed()[-1]
        if changed:
            self._demand("seal", machine, epoch)
            newest = self._keep(disk, epoch, content, name, sealed=True)
            self._grounds.witness.sealed(disk, newest)
        assert newest is not None
        return Sealed(
            generation=newest.id,
            sequence=newest.sequence,
            files=1,
            bytes=BYTES,
            bytes_changed=10 if changed else 0,
            manifest_sha256=f"{newest.content.write:08x}",
            seconds=seconds,
            taken_at=START + timedelta(seconds=newest.taken_at),
            changed=changed,
        )

    def _keep(
        self, disk: Disk, epoch: int, content: Content, name: str, *, sealed: bool
    ) -> Generation:
        last = disk.newest()
        sequence = last.sequence + 1 if last and last.epoch == epoch else 1
        made = Generation(epoch, sequence, content, name, self._grounds.now, sealed=sealed)
        disk.generations = [g for g in disk.generations[-GENERATIONS_KEPT:] if g.sealed]
        disk.generations.append(made)
        return made

    async def push(
        self,
        assignment: Assignment,
        *,
        final: bool,
        bytes_total: int,
        on_progress: Callable[[Progress], None],
    ) -> Pushed:
        grounds, epoch = self._grounds, assignment.epoch
        standby, candidate = assignment.standby, assignment.candidate
        assert standby is not None
        assert candidate is not None
        attempt = (epoch, assignment.attempt)

        def begin() -> tuple[Machine, Job, Generation]:
            machine = self._standby(standby)
            self._demand("push", machine, epoch)
            generation = machine.disk.newest()
            if generation is None:
                raise DataPlaneError("no-generation", "there is no generation here")
            self._candidate(candidate)
            job = Job(epoch)
            machine.disk.jobs.append(job)
            return machine, job, generation

        machine, job, generation = await grounds.wire.call(begin)
        there = grounds.fleet.of(candidate)
        first = there is None or attempt not in there.disk.restored
        seconds = self._seconds(FIRST_PASS_SECONDS if first else 3.0)
        breaks = self._breaks()

        def arrive() -> Pushed:
            self._still(machine, job)
            machine.disk.jobs.remove(job)
            if breaks:
                raise DataPlaneError("broke", "the transfer broke")
            target = self._candidate(candidate)
            target.disk.restored[attempt] = generation.content
            if final:
                target.disk.tree = generation.content
                grounds.witness.placed(target, generation.content)
            return Pushed(
                generation=generation.id,
                files=1,
                bytes=BYTES,
                bytes_copied=BYTES if first else 10,
                manifest_sha256=f"{generation.content.write:08x}",
                seconds=seconds,
            )

        try:
            return await grounds.wire.call(arrive, takes=seconds)
        except asyncio.CancelledError:
            job.ended = True
            raise

    def _standby(self, host: Host) -> Machine:
        machine = self._grounds.reached(host)
        if machine is None:
            raise DataPlaneError("standby-silent", "the standby does not answer")
        if machine.disk.role != Role.STANDBY.value:
            raise DataPlaneError("not-installed", "there is no gate on the standby")
        return machine

    def _candidate(self, host: Host) -> Machine:
        machine = self._grounds.reached(host, by_controller=False)
        if machine is None or machine.disk.role != Role.GPU.value:
            raise CandidateLostError("candidate-lost", "the new GPU does not answer")
        return machine

    def _demand(self, what: str, machine: Machine, epoch: int) -> None:
        if refusal := self._grounds.demand(what, machine.disk, epoch):
            raise OutdatedError("stale-epoch", refusal)

    def _still(self, machine: Machine, job: Job) -> None:
        """Raises DataPlaneError unless the job still runs on the standby."""
        if job.ended:
            self._broke("the job was ended on the standby")
        if not machine.up(self._grounds.now) or job not in machine.disk.jobs:
            self._broke("the standby went down")

    def _broke(self, reason: str) -> NoReturn:
        raise DataPlaneError("unknown", f"the session with the standby broke: {reason}")

    def _seconds(self, seconds: float) -> float:
        return seconds * (0.5 + self._grounds.chance.random()) * self._grounds.moods.slow

    def _breaks(self) -> bool:
        breaks = self._grounds.chance.random() < self._grounds.moods.passes_fail
        if breaks:
            self._grounds.witness.met("transfer: broke")
        return breaks


class LabReach:
    """Implements ``Reach`` of the health service's ports."""

    def __init__(self, grounds: Grounds) -> None:
        self._grounds = grounds

    async def look(self, subject: Subject, *, host_ca: str, timeout: float) -> Reached:
        grounds = self._grounds
        machine = await grounds.wire.call(lambda: grounds.reached(subject.host))
        if machine is None:
            await asyncio.sleep(timeout)
            return Reached(Tcp.SILENT, Ssh.NOT_TRIED, "no answer")
        if machine.disk.machine != subject.host.id:
            return Reached(Tcp.CONNECTS, Ssh.UNKNOWN, "another machine answers there")
        return Reached(Tcp.CONNECTS, Ssh.ANSWERS)
