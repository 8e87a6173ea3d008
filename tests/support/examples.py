"""One example of everything that a workspace's story is made of."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from services.recovery.domain.deadlines import due
from services.recovery.domain.decider import Context, decide
from services.recovery.domain.evolution import evolve
from services.recovery.domain.state import Phase, State
from shared.events import Event
from shared.events.health import ThresholdReached
from shared.events.recovery import (
    FailbackCompleted,
    FailoverCompleted,
    FailoverStarted,
    GpuProvisioned,
    GpuReady,
    OfferSelected,
    StandbyFrozen,
    StandbyLost,
    StandbyProvisioned,
)
from shared.events.requests import RequestReceived
from shared.events.sync import RestoreDone, SyncCompleted
from shared.machines import Host, MachineId, Role, WorkspaceName

WS = WorkspaceName("train")
START = datetime(2026, 1, 1, tzinfo=UTC)


RENEW_AT = START + timedelta(days=30)
"""Far away: no story but one about it meets a renewal."""


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def gpu(label: str = "dumont-train-e0-a1", provider_id: str = "101") -> Host:
    return Host(
        id=MachineId(label),
        provider="vast",
        provider_id=provider_id,
        address="127.0.0.1",
        port=40001,
    )


STANDBY = Host(
    id=MachineId("dumont-train-standby-1"),
    provider="gce",
    provider_id="dumont-train-standby-1",
    address="127.0.0.2",
    port=22,
)


class Story:
    """Tells events to the decisions one by one, as the service does, on a clock of its own."""

    def __init__(self) -> None:
        self.state = State(workspace=WS)
        self.told: list[Event] = []
        self.now = START
        self.price = 0.0

    def tell(self, event: Event) -> list[Event]:
        """Record an event and all that follows; returns what followed."""
        before = len(self.told)
        queue = [event]
        while queue:
            first = queue.pop(0)
            self.told.append(first)
            self.state = evolve(self.state, first)
            queue.extend(decide(self.state, first, Context(now=self.now, free_port=20000)))
        return self.told[before + 1 :]

    def wait(self, seconds: float) -> list[Event]:
        """Let time pass and record what is due."""
        self.now += timedelta(seconds=seconds)
        before = len(self.told)
        while events := due(self.state, self.now):
            for event in events:
                self.tell(event)
        return self.told[before:]

    def phase(self) -> Phase:
        return self.state.phase

    def names(self) -> list[str]:
        return [event.type for event in self.told]

    # --- the chapters

    def ask(self, verb: str, **arguments: object) -> list[Event]:
        return self.tell(
            RequestReceived(
                workspace=WS, epoch=self.state.epoch, verb=verb, actor="ada", arguments=arguments
            )
        )

    def sync(
        self,
        source: Host = STANDBY,
        *,
        seal: int | None = None,
        standby: MachineId | None = None,
    ) -> list[Event]:
        number = len(self.told)
        return self.tell(
            SyncCompleted(
                workspace=WS,
                epoch=self.state.epoch,
                generation=f"e{self.state.epoch:06d}-{number:08d}",
                sequence=number,
                source=source.id,
                files=3,
                bytes=1000,
                bytes_changed=10,
                manifest_sha256="00",
                seconds=1.0,
                completed_at=self.now,
                taken_at=self.now,
                seal=self.state.seal if seal is None else seal,
                standby=standby,
            )
        )

    def registered(self) -> "Story":
        self.ask("register", path="/workspace", origin="empty")
        self.tell(
            StandbyProvisioned(workspace=WS, epoch=0, attempt=1, host=STANDBY, renew_at=RENEW_AT)
        )
        return self

    def searching(self) -> "Story":
        self.registered()
        self.sync()
        return self

    def offer(self, number: int = 1) -> list[Event]:
        return self.tell(
            OfferSelected(
                workspace=WS,
                epoch=self.state.epoch,
                attempt=self.state.attempt.number,
                offer=str(number),
                market_machine=f"m{number}",
                price_per_hour=0.2,
                bid=0.25,
                description="RTX 4090, JP",
                offers_seen=5,
                why="cheapest",
            )
        )

    def rented(self) -> Host:
        self.offer()
        label = self.state.attempt.label
        assert label is not None
        return self.provisioned(label, price=self.price)

    def provisioned(self, label: MachineId, *, price: float) -> Host:
        host = replace(gpu(label, provider_id=str(100 + len(self.told))), price_per_hour=price)
        self.tell(
            GpuProvisioned(
                workspace=WS,
                epoch=self.state.epoch,
                attempt=self.state.attempt.number,
                host=host,
                ssh_deadline=self.now + timedelta(seconds=300),
                rented_at=self.now,
            )
        )
        return host

    def restoring(self) -> Host:
        host = self.rented()
        self.ready()
        return host

    def ready(self) -> None:
        host = self.state.attempt.host
        assert host is not None
        self.tell(
            GpuReady(
                workspace=WS,
                epoch=self.state.epoch,
                attempt=self.state.attempt.number,
                host=host,
                restore_deadline=self.now + timedelta(seconds=600),
                renew_at=RENEW_AT,
            )
        )

    def restore_done(self, *, seconds: float = 1.0, final: bool = False) -> list[Event]:
        host = self.state.attempt.host
        assert host is not None
        return self.tell(
            RestoreDone(
                workspace=WS,
                epoch=self.state.epoch,
                machine=host.id,
                attempt=self.state.attempt.number,
                round=self.state.attempt.round,
                final=final,
                generation=self.state.generation,
                files=3,
                bytes=1000,
                bytes_copied=1000,
                manifest_sha256="00",
                seconds=seconds,
            )
        )

    def frozen(self) -> list[Event]:
        return self.tell(
            StandbyFrozen(
                workspace=WS,
                epoch=self.state.epoch,
                attempt=self.state.attempt.number,
                frozen_at=self.now,
            )
        )

    def syncing(self) -> Host:
        """On a GPU and protected; past the cooldown."""
        self.searching()
        host = self.restoring()
        self.sync()
        self.restore_done()
        self.frozen()
        self.sync()
        self.restore_done(final=True)
        self.tell(
            FailbackCompleted(
                workspace=WS,
                epoch=self.state.epoch,
                machine=host.id,
                pause_seconds=2.0,
                completed_at=self.now,
            )
        )
        self.sync(host)
        self.now += timedelta(seconds=60)
        return host

    def suspect(self, host: Host, *, positive: bool = False) -> list[Event]:
        return self.tell(
            ThresholdReached(
                workspace=WS,
                epoch=self.state.epoch,
                machine=host.id,
                role=Role.GPU,
                failures=3,
                threshold=3,
                reason="no answer",
                positive=positive,
            )
        )

    def suspect_standby(self) -> list[Event]:
        return self.tell(
            ThresholdReached(
                workspace=WS,
                epoch=self.state.epoch,
                machine=STANDBY.id,
                role=Role.STANDBY,
                failures=3,
                threshold=3,
                reason="no answer",
                positive=False,
            )
        )

    def ask_failover_then_lose_standby(self) -> None:
        """The worst night: the GPU was given up, and then the only copy was gone."""
        self.syncing()
        self.ask("failover")
        self.tell(
            StandbyLost(
                workspace=WS,
                epoch=self.state.epoch,
                machine=STANDBY.id,
                reason="gce says that the machine is gone",
                gone=True,
            )
        )

    def failover(self, host: Host) -> list[Event]:
        self.suspect(host)
        self.tell(
            FailoverStarted(
                workspace=WS, epoch=self.state.epoch + 1, machine=host.id, reason="no answer"
            )
        )
        return self.tell(
            FailoverCompleted(
                workspace=WS,
                epoch=self.state.epoch,
                standby=STANDBY.id,
                generation=self.state.generation,
                seconds=0.5,
            )
        )
