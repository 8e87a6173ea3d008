"""A world of plain values around the decisions: what is owed can be carried out, well or badly.

No tasks and no clock of its own: one call is one step, so a walk through hundreds of stories takes
a second, and the machines that exist and are billed can be counted after each step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.recovery.domain import effects
from services.recovery.domain.deadlines import due
from services.recovery.domain.effects import Effect
from services.recovery.domain.loss import standby_verdict
from services.recovery.domain.mortality import halt_without_both, only_on_the_gpu
from services.recovery.domain.obligations import assignment, pending
from services.recovery.domain.state import End, Phase, State, Suspicion
from services.recovery.domain.sweep import zombie
from services.recovery.domain.verdict import verdict, without_copy, without_standby
from services.recovery.domain.world import Rental, RentalStatus, Sighting
from shared.assignments import Assignment, SyncMode
from shared.events import Event
from shared.events.health import HealthRestored, ThresholdReached
from shared.events.recovery import (
    FailbackCompleted,
    FailoverCompleted,
    FailoverStarted,
    GpuProvisioned,
    GpuReady,
    HostRenewed,
    NoticeSent,
    OfferSelected,
    OrphanDestroyed,
    PrimaryFenced,
    ProvisionFailed,
    StandbyFrozen,
    StandbyLost,
    StandbyProvisioned,
    StandbyRestored,
    StandbyThawed,
)
from shared.events.sync import (
    GenerationConfirmed,
    RestoreDone,
    RestoreFailed,
    SyncCompleted,
    SyncFailed,
)
from shared.machines import Host, MachineId, Role
from tests.support.examples import STANDBY, WS, Story

DUE_MAX = 100
"""So many events at one moment mean that time itself is stuck."""
ROUNDS_MAX = 400


@dataclass
class Vm:
    """A machine at a provider; ``holds`` is the newest generation on a standby's disk."""

    rental: Rental
    role: Role
    holds: str = ""

    @property
    def runs(self) -> bool:
        return self.rental.status is RentalStatus.RUNNING

    def set(self, status: RentalStatus) -> None:
        self.rental = replace(self.rental, status=status)


@dataclass
class Play:
    """A story with its world. ``machines`` are keyed by the provider's id."""

    story: Story = field(default_factory=Story)
    machines: dict[str, Vm] = field(default_factory=dict)
    generations: int = 0
    run_again: set[str] = field(default_factory=set)
    """What the market started by itself, once we had seen its end."""

    @classmethod
    def of(cls, story: Story) -> "Play":
        """The world as it must be for what was told so far."""
        play = cls(story)
        state = story.state
        condemned = {c.provider_id: c for c in state.condemned if c.provider_id}
        for host in (state.primary, state.attempt.host):
            if host is not None and host.provider != "ssh":
                play.exists(host, Role.GPU)
        for c in condemned.values():
            if c.provider == "vast":
                play.exists(_known(c.machine, c.provider, c.provider_id), Role.GPU)
        if (standby := state.standby.host) is not None:
            play.exists(standby, Role.STANDBY, holds=state.generation)
            if state.standby.lost:
                play.machines[standby.provider_id].set(RentalStatus.STOPPED)
        for provider_id, owed in condemned.items():
            if owed.seen and provider_id in play.machines:
                play.machines[provider_id].set(RentalStatus.STOPPED)
        return play

    def adopt(self) -> None:
        """The GPU that a registration named is there."""
        if (host := self.state.adopted) is not None and host.provider != "ssh":
            self.exists(host, Role.GPU)

    @property
    def state(self) -> State:
        return self.story.state

    @property
    def order(self) -> Assignment:
        return assignment(self.state, position=1, host_ca="", user_ca="")

    def exists(self, host: Host, role: Role, *, holds: str = "") -> None:
        rental = Rental(
            label=host.id,
            provider=host.provider,
            provider_id=host.provider_id,
            status=RentalStatus.RUNNING,
            address=host.address,
            port=host.port,
            price_per_hour=0.2,
        )
        self.machines[host.provider_id] = Vm(rental, role, holds)

    def labelled(self, label: MachineId) -> list[Vm]:
        return [vm for vm in self.machines.values() if vm.rental.label == label]

    def runs(self, host: Host | None) -> bool:
        """Whether a host answers; one of the user's own always does."""
        if host is None:
            return False
        vm = self.machines.get(host.provider_id)
        return host.provider == "ssh" or (vm is not None and vm.runs)

    def billed_gpus(self) -> list[str]:
        return [k for k, vm in self.machines.items() if vm.role is Role.GPU and vm.runs]

    # --- time

    def wait(self, seconds: float) -> None:
        self.story.now += timedelta(seconds=seconds)
        for _ in range(DUE_MAX):
            events = due(self.state, self.story.now)
            if not events:
                return
            for event in events:
                self.story.tell(event)
        raise AssertionError(f"due never ends: {self.story.names()[-4:]}")

    # --- what is owed

    def owed(self) -> list[Effect]:
        return sorted(pending(self.state), key=repr)

    def carry_out(self, effect: Effect) -> None:
        """As well as the world allows: nothing is told where nobody answers."""
        for event in self._outcome(effect):
            self.story.tell(event)

    def fail(self, effect: Effect, stage: str) -> None:
        """The effect ends badly, where it has such an end."""
        if isinstance(effect, effects.ProvisionStandby):
            self.story.tell(self._failed(Role.STANDBY, effect.attempt, "prepare"))
        elif isinstance(effect, effects.SearchOffers | effects.RentGpu | effects.AwaitGpu):
            self.story.tell(self._failed(Role.GPU, effect.attempt, stage))

    def rent_without_an_answer(self, effect: effects.RentGpu) -> None:
        self._rented(effect.label)

    def _outcome(self, effect: Effect) -> Iterator[Event]:  # noqa: C901, PLR0912, PLR0915 # flat
        standby_there = self.runs(self.state.standby.host)
        match effect:
            case effects.ProvisionStandby():
                yield from self._standby(effect)
            case effects.PrepareAdopted(host=host) if self.runs(host):
                yield self._ready(host, 0)
            case effects.PrepareAdopted(host=host) if host.provider_id not in self.machines:
                yield halt_without_both(self.state)
            case effects.SearchOffers():
                yield self._offer(effect)
            case effects.RentGpu():
                yield GpuProvisioned(
                    workspace=WS,
                    epoch=effect.epoch,
                    attempt=effect.attempt,
                    host=self._rented(effect.label),
                    ssh_deadline=self._in(300),
                    rented_at=self.story.now,
                )
            case effects.AwaitGpu(host=host) | effects.WatchCandidate(host=host) if not self.runs(
                host
            ):
                yield self._failed(Role.GPU, effect.attempt, "lost")
            case effects.AwaitGpu(host=host):
                yield self._ready(host, effect.attempt)
            case effects.ConfirmDeath():
                yield self._verdict(effect)
            case effects.ConfirmStandbyLoss():
                yield self._standby_verdict(effect)
            case effects.RenewHost(host=host, role=role) if self.runs(host):
                yield HostRenewed(
                    workspace=WS,
                    epoch=effect.epoch,
                    machine=host.id,
                    role=role,
                    renew_at=self._in(21_600),
                )
            case effects.PromoteStandby(host=host) if standby_there and not self.holds(host):
                yield StandbyRestored(workspace=WS, epoch=effect.epoch, host=host)
            case effects.PromoteStandby() if lost := self._found_lost():
                yield lost
            case effects.SwitchToGpu(standby=Host()) if lost := self._found_lost():
                yield lost
            case effects.PromoteStandby(host=host) if standby_there:
                yield FailoverCompleted(
                    workspace=WS,
                    epoch=effect.epoch,
                    standby=host.id,
                    generation=self.holds(host),
                    seconds=0.5,
                )
            case effects.FreezeStandby() if standby_there:
                yield StandbyFrozen(
                    workspace=WS,
                    epoch=effect.epoch,
                    attempt=effect.attempt,
                    frozen_at=self.story.now,
                )
            case effects.ThawStandby() if standby_there:
                yield StandbyThawed(workspace=WS, epoch=effect.epoch, attempt=effect.attempt)
            case effects.SwitchToGpu(host=host) if self.runs(host) and (
                effect.standby is None or standby_there
            ):
                yield FailbackCompleted(
                    workspace=WS,
                    epoch=effect.epoch,
                    machine=host.id,
                    pause_seconds=1.0,
                    completed_at=self.story.now,
                )
            case effects.SwitchToGpu(host=host) if (
                only_on_the_gpu(self.state) and host.provider_id not in self.machines
            ):
                yield halt_without_both(self.state)
            case effects.Fence():
                yield self._fenced(effect)
            case effects.SendNotice(notice=notice):
                yield NoticeSent(
                    workspace=WS,
                    epoch=effect.epoch,
                    number=notice.number,
                    severity=notice.severity,
                    text=notice.text,
                    channel="log",
                )

    def holds(self, standby: Host) -> str:
        """The newest generation on its disk; of a host of the user's own we know what was said."""
        vm = self.machines.get(standby.provider_id)
        return vm.holds if vm else self.state.generation

    def _standby(self, effect: effects.ProvisionStandby) -> Iterator[Event]:
        """One that was lost is started again, or found to be gone."""
        if effect.own is not None:
            host = effect.own
        elif effect.revive is not None:
            vm = self.machines.get(effect.revive.provider_id)
            if vm is None:
                yield self._lost(effect.revive, gone=True)
                return
            vm.set(RentalStatus.RUNNING)
            host = effect.revive
        else:
            found = self.labelled(effect.label)
            if not found:
                self.exists(replace(STANDBY, id=effect.label, provider_id=self._id()), Role.STANDBY)
                found = self.labelled(effect.label)
            found[0].set(RentalStatus.RUNNING)
            rental = found[0].rental
            host = replace(STANDBY, id=effect.label, provider_id=rental.provider_id)
        renew_at = self._in(21_600)
        if effect.again:
            yield StandbyRestored(
                workspace=WS,
                epoch=effect.epoch,
                host=host,
                generation=self.holds(host),
                renew_at=renew_at,
            )
        else:
            yield StandbyProvisioned(
                workspace=WS,
                epoch=effect.epoch,
                attempt=effect.attempt,
                host=host,
                renew_at=renew_at,
            )

    def _found_lost(self) -> Event | None:
        """What the provider says of a standby that should do something and does not answer."""
        host = self.state.standby.host
        if host is None or self.runs(host):
            return None
        return self._lost(host, gone=host.provider_id not in self.machines)

    def _lost(self, host: Host, *, gone: bool) -> Event:
        return StandbyLost(
            workspace=WS,
            epoch=self.state.epoch,
            machine=host.id,
            reason="gce says so",
            gone=gone,
            lost_at=self.story.now,
        )

    def _standby_verdict(self, effect: effects.ConfirmStandbyLoss) -> Event:
        vm = self.machines.get(effect.host.provider_id)
        return standby_verdict(
            self.state,
            effect,
            sighting=Sighting.ANSWERS if self.runs(effect.host) else Sighting.SILENT,
            rental=vm.rental if vm else None,
            provider_silent="",
            now=self.story.now,
        )

    def _offer(self, effect: effects.SearchOffers) -> Event:
        return OfferSelected(
            workspace=WS,
            epoch=effect.epoch,
            attempt=effect.attempt,
            offer="1",
            market_machine=f"m{effect.attempt}",
            price_per_hour=0.2,
            bid=0.25,
            description="RTX 4090, JP",
            offers_seen=5,
            why="cheapest",
        )

    def _rented(self, label: MachineId) -> Host:
        if not self.labelled(label):
            beside = [k for k in self.billed_gpus() if k not in self.run_again]
            assert not beside, f"{label} is rented beside {beside}"
            self.exists(_known(label, "vast", self._id()), Role.GPU)
        return _known(label, "vast", self.labelled(label)[0].rental.provider_id)

    def _ready(self, host: Host, attempt: int) -> Event:
        return GpuReady(
            workspace=WS,
            epoch=self.state.epoch,
            attempt=attempt,
            host=host,
            restore_deadline=self._in(600),
            renew_at=self._in(21_600),
        )

    def _verdict(self, effect: effects.ConfirmDeath) -> Event:
        vm = self.machines.get(effect.host.provider_id)
        judged = without_copy if effect.alone else verdict
        event = judged(
            self.state,
            effect,
            sighting=Sighting.ANSWERS if self.runs(effect.host) else Sighting.SILENT,
            rental=vm.rental if vm else None,
            provider_silent="",
            now=self.story.now,
        )
        if isinstance(event, FailoverStarted) and not self.runs(self.state.standby.host):
            return self._found_lost() or without_standby(self.state, effect, now=self.story.now)
        return event

    def _fenced(self, effect: effects.Fence) -> Event:
        condemned = effect.condemned
        ids = (
            [condemned.provider_id]
            if condemned.provider_id
            else [vm.rental.provider_id for vm in self.labelled(condemned.machine)]
        )
        for provider_id in ids:
            if condemned.end is End.STOP and provider_id in self.machines:
                self.machines[provider_id].set(RentalStatus.STOPPED)
            elif condemned.end is End.DESTROY:
                self.machines.pop(provider_id, None)
        if condemned.orphan:
            return OrphanDestroyed(
                workspace=WS,
                epoch=self.state.epoch,
                machine=condemned.machine,
                provider_id=condemned.provider_id,
                reason=condemned.reason,
                seen_at=self.story.now,
            )
        return PrimaryFenced(
            workspace=WS,
            epoch=self.state.epoch,
            machine=condemned.machine,
            provider_id=condemned.provider_id,
            how="stopped" if condemned.end is End.STOP else "destroyed",
            seen_at=self.story.now,
        )

    def _failed(self, role: Role, attempt: int, stage: str) -> Event:
        return ProvisionFailed(
            workspace=WS,
            epoch=self.state.epoch,
            role=role,
            attempt=attempt,
            stage=stage,
            reason=f"{stage} did not work",
            market_machine=self.state.attempt.market_machine if role is Role.GPU else "",
        )

    # --- the other services

    def sync(self) -> bool:
        """One thing that the assignment asks of sync; False when it asks for nothing."""
        order = self.order
        if order.mode is SyncMode.IDLE or order.standby is None or not self.runs(order.standby):
            return False
        source = order.primary if order.mode is SyncMode.MIRROR else order.standby
        if source is None or not self.runs(source):
            return False
        waited_for = (
            self.state.resume_owed or not self.state.generation or self.phase is Phase.SEEDING
        )
        if order.seal > self.state.sealed or waited_for:
            self._seal(order, source)
            return True
        if order.mode is SyncMode.MIRROR:
            return self._confirm(order, source)
        if order.candidate is None or order.mode not in {SyncMode.RESTORE, SyncMode.FINAL}:
            return False
        if not self.runs(order.candidate):
            return False
        self.story.tell(self._restored(order, order.candidate))
        return True

    @property
    def phase(self) -> Phase:
        return self.state.phase

    def _seal(self, order: Assignment, source: Host) -> None:
        self.generations += 1
        name = f"e{order.epoch:06d}-{self.generations:08d}"
        assert order.standby is not None
        if (vm := self.machines.get(order.standby.provider_id)) is not None:
            vm.holds = name
        self.story.tell(
            SyncCompleted(
                workspace=WS,
                epoch=order.epoch,
                generation=name,
                sequence=self.generations,
                source=source.id,
                files=3,
                bytes=1000,
                bytes_changed=10,
                manifest_sha256="00",
                seconds=1.0,
                completed_at=self.story.now,
                taken_at=self.story.now,
                seal=order.seal,
                standby=order.standby.id,
            )
        )

    def _confirm(self, order: Assignment, source: Host) -> bool:
        """Say now and then that the newest generation is still all there is."""
        known = self.state.generation_at
        pause = timedelta(seconds=order.policy.generation_age_max / 3)
        if known is not None and self.story.now - known < pause:
            return False
        self.story.tell(
            GenerationConfirmed(
                workspace=WS,
                epoch=order.epoch,
                generation=self.state.generation,
                source=source.id,
                taken_at=self.story.now,
            )
        )
        return True

    def _restored(self, order: Assignment, candidate: Host) -> Event:
        return RestoreDone(
            workspace=WS,
            epoch=order.epoch,
            machine=candidate.id,
            attempt=order.attempt,
            round=order.round,
            final=order.mode is SyncMode.FINAL,
            generation=self.state.generation,
            files=3,
            bytes=1000,
            bytes_copied=10,
            manifest_sha256="00",
            seconds=1.0,
        )

    def sync_fails(self) -> None:
        order = self.order
        if order.mode in {SyncMode.RESTORE, SyncMode.FINAL} and order.candidate is not None:
            self.story.tell(
                RestoreFailed(
                    workspace=WS,
                    epoch=order.epoch,
                    machine=order.candidate.id,
                    attempt=order.attempt,
                    round=order.round,
                    reason="the connection was cut",
                    candidate_lost=not self.runs(order.candidate),
                )
            )
        elif order.standby is not None:
            source = order.primary or order.standby
            self.story.tell(
                SyncFailed(workspace=WS, epoch=order.epoch, source=source.id, reason="cut")
            )

    def health(self) -> bool:
        """Health says what it sees of the hosts that it watches; False when all is well."""
        spoken = False
        for host in self.order.watch:
            standby = self.state.standby.host
            role = Role.STANDBY if standby and host.id == standby.id else Role.GPU
            if not self.runs(host):
                self.story.tell(self.suspicion(host, role))
                spoken = True
            elif any(s and s.machine == host.id for s in self._suspicions()):
                self.story.tell(
                    HealthRestored(
                        workspace=WS,
                        epoch=self.state.epoch,
                        machine=host.id,
                        role=role,
                        failures_before=3,
                    )
                )
                spoken = True
        return spoken

    def _suspicions(self) -> tuple[Suspicion | None, ...]:
        return self.state.suspicion, self.state.standby.suspicion

    def suspicion(self, host: Host, role: Role) -> Event:
        return ThresholdReached(
            workspace=WS,
            epoch=self.state.epoch,
            machine=host.id,
            role=role,
            failures=3,
            threshold=3,
            reason="no answer",
            positive=host.provider != "ssh",
        )

    def sweep(self) -> None:
        """What the sweeper finds in the providers' accounts."""
        for vm in list(self.machines.values()):
            if (event := zombie(self.state, vm.rental, self.story.now)) is not None:
                again = vm.rental.provider_id in self.run_again
                assert again, f"{vm.rental.label} was forgotten: only the sweeper knows it"
                self.story.tell(event)

    # --- all goes well from here on

    def settle(self, until: Callable[[], bool]) -> bool:
        """Everybody does what is owed, and nothing fails any more; False if it never ends well."""
        for _ in range(ROUNDS_MAX):
            if until():
                return True
            self.round()
        return until()

    def round(self, *, hangs: type | None = None) -> None:
        """Everybody does once what is owed; when nobody has anything to do, time passes.

        Effects of the type ``hangs`` do not come to an end.
        """
        before = self.state
        for effect in self.owed():
            if hangs is type(effect) is effects.RentGpu:
                self.rent_without_an_answer(effect)
            elif effect in pending(self.state) and type(effect) is not hangs:
                self.carry_out(effect)
        self.health()
        self.sync()
        self.sweep()
        if self.state == before:
            self.wait(31)

    # --- small parts

    def _id(self) -> str:
        return str(1000 + len(self.story.told) * 10 + len(self.machines))

    def _in(self, seconds: float) -> datetime:
        return self.story.now + timedelta(seconds=seconds)


def _known(label: MachineId, provider: str, provider_id: str) -> Host:
    return Host(
        id=label, provider=provider, provider_id=provider_id, address="127.0.0.1", port=40001
    )
