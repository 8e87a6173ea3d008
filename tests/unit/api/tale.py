"""A workspace's life as recorded events: what the api's folds are told in these tests."""

from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid5

from shared.envelope import Envelope
from shared.events import EVENTS, SPEAKER
from shared.events.base import Event
from shared.machines import Host, MachineId, Role, WorkspaceName
from shared.policy import Policy

NAME = WorkspaceName("train")
BEGIN = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SPACE = UUID("00000000-0000-4000-8000-000000000001")

ADOPTED = Host(
    id=MachineId("train-adopted"),
    provider="ssh",
    provider_id="203.0.113.9:22",
    address="203.0.113.9",
    port=22,
)
STANDBY = Host(
    id=MachineId("dumont-train-standby-1"),
    provider="gce",
    provider_id="dumont-train-standby-1",
    address="127.0.0.2",
    port=22,
    price_per_hour=0.03,
    description="e2-medium in europe-west1-b",
)


def gpu(attempt: int = 1, epoch: int = 0) -> Host:
    """The GPU that this attempt rents."""
    return Host(
        id=MachineId(f"dumont-train-e{epoch}-a{attempt}"),
        provider="vast",
        provider_id=str(1000 + attempt),
        address="127.0.0.1",
        port=40000 + attempt,
        price_per_hour=0.3,
        description="RTX 4090, TH",
    )


E_ = TypeVar("E_", bound=Event)


class Tale:
    """Tells events one after the other, a second apart, numbered as the log numbers them."""

    def __init__(self, name: WorkspaceName = NAME, *, first: int = 1) -> None:
        self.name = name
        self.epoch = 0
        self.now = BEGIN
        self.told: list[Envelope] = []
        self._next = first

    def tell(self, kind: type[E_], *, causation: UUID | None = None, **fields: Any) -> Envelope:
        """Record one event; fields not given take a plausible value."""
        self.now += timedelta(seconds=1)
        values = {"workspace": self.name, "epoch": self.epoch, **fields}
        event = kind(**{**_plausible(kind, self), **values})
        position = self._next
        self._next += 1
        envelope = Envelope(
            id=uuid5(SPACE, f"{self.name}-{position}"),
            source=SPEAKER[kind.type],
            time=self.now,
            event=event,
            causation=causation,
            position=position,
        )
        self.told.append(envelope)
        return envelope

    def after(self, seconds: float) -> datetime:
        return self.now + timedelta(seconds=seconds)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # --- chapters ----------------------------------------------------------------------------

    def registered(self, **fields: Any) -> "Tale":
        self.tell(EVENTS["WorkspaceRegistered"], **fields)
        return self

    def standby_up(self) -> "Tale":
        self.tell(EVENTS["ProvisionRequested"], role=Role.STANDBY, attempt=1, label=STANDBY.id)
        self.tell(EVENTS["StandbyProvisioned"], host=STANDBY)
        return self

    def synced(self, sequence: int = 1, **fields: Any) -> "Tale":
        self.tell(EVENTS["SyncCompleted"], sequence=sequence, **fields)
        return self

    def searching(self) -> "Tale":
        self.tell(EVENTS["RecoveryStarted"], reason="a GPU is wanted")
        return self

    def rented(self, attempt: int = 1) -> "Tale":
        host = gpu(attempt, self.epoch)
        self.tell(EVENTS["OfferSelected"], attempt=attempt)
        self.tell(
            EVENTS["ProvisionRequested"], role=Role.GPU, attempt=attempt, label=host.id, bid=0.3
        )
        self.tell(EVENTS["GpuProvisioned"], attempt=attempt, host=host)
        return self

    def restored(self, attempt: int = 1) -> "Tale":
        host = gpu(attempt, self.epoch)
        self.tell(EVENTS["GpuReady"], attempt=attempt, host=host)
        for done in (25, 100):
            self.tell(
                EVENTS["RestoreProgressed"],
                machine=host.id,
                attempt=attempt,
                bytes_done=done,
                bytes_total=100,
            )
        self.tell(EVENTS["RestoreDone"], machine=host.id, attempt=attempt, round=1, final=False)
        return self

    def failed_back(self, attempt: int = 1) -> "Tale":
        host = gpu(attempt, self.epoch)
        self.tell(EVENTS["FailbackStarted"], machine=host.id, attempt=attempt)
        self.tell(EVENTS["StandbyFrozen"], attempt=attempt)
        self.tell(EVENTS["RestoreDone"], machine=host.id, attempt=attempt, round=2, final=True)
        self.epoch += 1
        self.tell(EVENTS["FailbackVerified"], machine=host.id)
        self.tell(EVENTS["FailbackCompleted"], machine=host.id)
        return self

    def resumed(self, attempt: int = 1) -> "Tale":
        host = gpu(attempt, self.epoch - 1)
        self.synced(sequence=2, source=host.id)
        self.tell(EVENTS["SyncResumed"])
        self.tell(EVENTS["RecoveryCompleted"], machine=host.id, attempts=attempt)
        return self

    def protected(self) -> "Tale":
        """From nothing to a GPU in service, mirrored."""
        self.registered().standby_up().synced().searching().rented().restored()
        return self.failed_back().resumed()

    def lost(self, attempt: int = 1) -> "Tale":
        """The GPU fails its checks and the standby takes over."""
        host = gpu(attempt, self.epoch - 1)
        for failures in (1, 2, 3):
            self.tell(EVENTS["HealthFailed"], machine=host.id, failures=failures)
        self.tell(EVENTS["ThresholdReached"], machine=host.id, failures=3)
        self.epoch += 1
        self.tell(EVENTS["FailoverStarted"], machine=host.id)
        self.tell(EVENTS["FailoverCompleted"], standby=STANDBY.id)
        return self


def _plausible(kind: type[Event], tale: Tale) -> dict[str, Any]:
    later = tale.after(60)
    values: dict[str, dict[str, Any]] = {
        "WorkspaceRegistered": {
            "path": "/workspace",
            "origin": "empty",
            "policy": Policy(),
            "endpoint_port": 20000,
        },
        "RequestReceived": {"verb": "pause", "actor": "admin"},
        "RequestRefused": {"verb": "pause", "reason": "it cannot be"},
        "RequestAccepted": {"verb": "uploaded"},
        "RollbackRequested": {"before": tale.after(-3600), "reason": "spoilt", "actor": "admin"},
        "RollbackRefused": {"reason": "the standby holds no copy from before then"},
        "HealthFailed": {
            "machine": gpu().id,
            "role": Role.GPU,
            "failures": 1,
            "threshold": 3,
            "reason": "connection refused",
        },
        "ThresholdReached": {
            "machine": gpu().id,
            "role": Role.GPU,
            "failures": 3,
            "threshold": 3,
            "reason": "connection refused",
            "positive": False,
            "evidence": ("tcp: connection refused", "provider: running"),
        },
        "HealthUnknown": {
            "machine": gpu().id,
            "role": Role.GPU,
            "checks": 3,
            "reason": "neither the host nor its provider answers: our own network is in doubt",
            "evidence": ("tcp: silent", "provider: unreachable"),
        },
        "HealthRestored": {"machine": gpu().id, "role": Role.GPU, "failures_before": 2},
        "OfferSelected": {
            "attempt": 1,
            "offer": "77",
            "market_machine": "9",
            "price_per_hour": 0.28,
            "bid": 0.3,
            "description": "RTX 4090, TH",
            "offers_seen": 14,
            "why": "the cheapest in a preferred region",
        },
        "ProvisionRequested": {"role": Role.GPU, "attempt": 1, "label": gpu().id},
        "GpuProvisioned": {"attempt": 1, "host": gpu(), "ssh_deadline": later},
        "StandbyProvisioned": {"attempt": 1, "host": STANDBY},
        "EffectFailing": {
            "effect": "promote standby",
            "tries": 5,
            "reason": "10.0.0.7 port 22 does not answer",
        },
        "ProvisionFailed": {
            "role": Role.GPU,
            "attempt": 1,
            "stage": "ssh",
            "reason": "no SSH within 300 s",
        },
        "WaitScheduled": {
            "role": Role.GPU,
            "attempt": 2,
            "until": later,
            "reason": "no offer fits",
        },
        "WaitEnded": {"role": Role.GPU, "attempt": 2},
        "GpuReady": {"attempt": 1, "host": gpu(), "restore_deadline": later},
        "PrimaryFenced": {"machine": gpu().id, "provider_id": "1001", "how": "stopped"},
        "ZombieSeen": {
            "machine": gpu().id,
            "provider": "vast",
            "provider_id": "1001",
            "reason": "it was fenced and runs again",
        },
        "OrphanDestroyed": {
            "machine": gpu().id,
            "provider_id": "1001",
            "reason": "attempt 1 ended",
        },
        "StandbyLost": {"machine": STANDBY.id, "reason": "preempted"},
        "StandbyLossRefused": {
            "machine": STANDBY.id,
            "reason": "the standby answers us",
            "recheck_at": later,
        },
        "StandbyStale": {
            "machine": STANDBY.id,
            "generation": "e000001-00000002",
            "reason": "the newest copy is 2400 s old; the policy allows 900 s",
        },
        "RenewalDue": {"machine": STANDBY.id, "role": Role.STANDBY},
        "HostRenewed": {"machine": STANDBY.id, "role": Role.STANDBY, "renew_at": later},
        "StandbyRestored": {"host": STANDBY},
        "FailoverStarted": {"machine": gpu().id, "reason": "it was outbid"},
        "FailoverRefused": {
            "machine": gpu().id,
            "reason": "automatic failover is paused",
            "recheck_at": later,
        },
        "FailoverCompleted": {
            "standby": STANDBY.id,
            "generation": "e000001-00000002",
            "seconds": 1.2,
            "generation_age_seconds": 11.8,
        },
        "RecoveryStarted": {"reason": "the GPU was lost"},
        "RecoveryHalted": {"reason": "the key is not accepted", "hint": "set another key"},
        "FenceDelayed": {"machine": gpu().id, "provider_id": gpu().provider_id},
        "SpendLimitReached": {"window": "day", "spent": 13.1, "maximum": 13.0},
        "NoticeSent": {
            "number": 1,
            "severity": "critical",
            "text": "recovery halted",
            "channel": "log",
        },
        "FailbackStarted": {"machine": gpu().id, "attempt": 1, "freeze_deadline": later},
        "StandbyFrozen": {"attempt": 1, "frozen_at": tale.now},
        "FailbackAborted": {
            "attempt": 1,
            "reason": "the last delta did not end in time",
            "retry_at": later,
            "restore_deadline": later,
        },
        "StandbyThawed": {"attempt": 1},
        "FailbackVerified": {
            "machine": gpu().id,
            "generation": "e000000-00000002",
            "switch_deadline": later,
        },
        "FailbackCompleted": {
            "machine": gpu().id,
            "pause_seconds": 0.8,
            "completed_at": tale.now,
        },
        "SyncResumed": {"generation": "e000001-00000002"},
        "RecoveryCompleted": {"machine": gpu().id, "attempts": 1},
        "SyncCompleted": {
            "generation": f"e{tale.epoch:06d}-00000001",
            "sequence": 1,
            "source": STANDBY.id,
            "files": 2004,
            "bytes": 300_000_000,
            "bytes_changed": 1_000_000,
            "manifest_sha256": "ab" * 32,
            "seconds": 1.5,
            "completed_at": tale.now,
            "taken_at": tale.now,
        },
        "GenerationConfirmed": {
            "generation": f"e{tale.epoch:06d}-00000001",
            "source": STANDBY.id,
            "taken_at": tale.now,
        },
        "SyncFailed": {"source": gpu().id, "reason": "rsync ended with 12"},
        "GenerationHeld": {
            "source": gpu().id,
            "reason": "the source has 1 % of the files it had",
            "files_before": 2004,
            "files_now": 20,
            "bytes_before": 300_000_000,
            "bytes_now": 3_000,
        },
        "RestoreProgressed": {
            "machine": gpu().id,
            "attempt": 1,
            "bytes_done": 50,
            "bytes_total": 100,
        },
        "RestoreDone": {
            "machine": gpu().id,
            "attempt": 1,
            "round": 1,
            "final": False,
            "generation": "e000000-00000001",
            "files": 2004,
            "bytes": 100,
            "bytes_copied": 100,
            "manifest_sha256": "ab" * 32,
            "seconds": 2.0,
        },
        "RestoreFailed": {
            "machine": gpu().id,
            "attempt": 1,
            "round": 1,
            "reason": "the session broke",
        },
    }
    return values.get(kind.type, {})


def example(kind: type[Event]) -> Event:
    """One event of this kind."""
    return Tale().tell(kind).event
