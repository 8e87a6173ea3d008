"""The shapes of what people are shown: one workspace, its machines, its way back, its troubles."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from shared.machines import Host, MachineId, Role, WorkspaceName
from shared.policy import Policy


class Phase(StrEnum):
    """Where a workspace is in its life. Degraded and paused are beside it, not instead of it."""

    SEEDING = "SEEDING"
    ON_STANDBY = "ON_STANDBY"
    RECOVERING = "RECOVERING"
    FAILING_BACK = "FAILING_BACK"
    SYNCING = "SYNCING"
    FAILING_OVER = "FAILING_OVER"
    HALTED = "HALTED"
    REMOVED = "REMOVED"


class Step(StrEnum):
    """What is going on within a phase, in words for a person."""

    PROVISIONING_STANDBY = "provisioning standby"
    AWAITING_UPLOAD = "waiting for the upload"
    FIRST_COPY = "making the first copy"
    SEARCHING = "searching"
    WAITING = "waiting for the next attempt"
    PROVISIONING = "provisioning"
    WAITING_FOR_SSH = "waiting for SSH"
    RESTORING = "restoring"
    VERIFYING = "verifying"
    FREEZING = "freezing the standby"
    LAST_DELTA = "sending the last delta"
    SWITCHING = "switching the endpoint"
    FIRST_SYNC = "waiting for the first sync"


class Billing(StrEnum):
    """What a machine that may cost money is to us."""

    REQUESTED = "requested"  # asked for; not known yet whether it exists
    RUNNING = "running"
    STOPPED = "stopped"  # its disk may still be billed
    ENDING = "ending"  # to be destroyed, not yet seen to be gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A host in one of the workspace's roles; ``dead`` once it was given up for lost."""

    host: Host
    failures: int = 0
    dead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledMachine:
    """A machine that somebody is paid for, from the intent to rent it until it is seen gone."""

    id: MachineId
    role: Role
    billing: Billing
    since: datetime
    attempt: int = 0
    provider: str = ""
    provider_id: str = ""
    price_per_hour: float = 0.0
    stopped: bool = False  # seen so: its disk alone is billed, whatever it is owed yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A sealed copy, as SyncCompleted told of it. ``position`` is that event's place in the log."""

    id: str
    epoch: int
    sequence: int
    source: MachineId
    files: int
    bytes: int
    bytes_changed: int
    manifest_sha256: str
    seconds: float
    taken_at: datetime
    completed_at: datetime
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that went wrong or stands in the way, with what a person may do about it."""

    reason: str
    at: datetime
    hint: str = ""
    stage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The way back onto a GPU, from the wish for one until it serves and is protected.

    ``tries`` counts from 1, this one included. Bytes are those of the current restore round.
    """

    reason: str
    started_at: datetime
    tries: int = 1
    offer: str = ""
    last_failure: Trouble | None = None
    next_attempt_at: datetime | None = None
    deadline: datetime | None = None
    round: int = 0
    bytes_done: int | None = None
    bytes_total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failover:
    """The last change of primary to the standby. ``seconds``: from the decision to its serving."""

    started_at: datetime
    reason: str
    completed_at: datetime | None = None
    seconds: float | None = None
    generation: str = ""
    generation_age_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failback:
    """The last return to a GPU. ``pause_seconds``: how long nobody could write."""

    completed_at: datetime
    pause_seconds: float


@dataclass(frozen=True, kw_only=True)
class WorkspaceView:
    """One workspace at ``position`` of the log. Without slots: see ``shared.changing``.

    ``gpu`` is the GPU in service (or just given up), ``candidate`` the one being brought up,
    ``serving`` the role that the endpoint points at, None while it points nowhere; ``host_ca`` is
    the public key by which every host of the workspace is known. Attempts at a
    GPU are numbered by recovery, ever upwards: ``attempt`` is the newest that we heard of, and
    what is up to ``attempts_ended`` is over. ``confirmed_at``: when sync last found the newest
    generation to be all that the source has. ``change_rate``: bytes a second that changed between
    the last two generations. ``double_billed_seconds``: how long two GPUs were billed at once, up
    to ``double_billed_since``, which is when that began anew if it is so now.
    """

    name: WorkspaceName
    position: int
    registered_at: datetime
    changed_at: datetime
    path: str
    origin: str
    policy: Policy
    endpoint_port: int
    epoch: int
    phase: Phase
    host_ca: str = ""
    step: Step | None = None
    attempt: int = 0
    attempts_ended: int = 0
    serving: Role | None = None
    adopted: MachineId | None = None
    gpu: Machine | None = None
    standby: Machine | None = None
    candidate: Machine | None = None
    sync_count: int = 0
    last_generation: Generation | None = None
    change_rate: float | None = None
    recovery: Recovery | None = None
    failover: Failover | None = None
    failback: Failback | None = None
    refused: Trouble | None = None
    recheck_at: datetime | None = None
    halted: Trouble | None = None
    standby_lost: Trouble | None = None
    stale: Trouble | None = None
    confirmed_at: datetime | None = None
    standby_trouble: Trouble | None = None
    standby_next_attempt_at: datetime | None = None
    held: Trouble | None = None
    sync_failure: Trouble | None = None
    sync_failures: int = 0
    paused: Trouble | None = None
    removed_at: datetime | None = None
    incident: UUID | None = None
    billed: Mapping[MachineId, BilledMachine] = field(default_factory=dict)
    double_billed_seconds: float = 0.0
    double_billed_since: datetime | None = None

    @property
    def primary(self) -> Machine | None:
        """The machine that the endpoint points at."""
        return {Role.GPU: self.gpu, Role.STANDBY: self.standby, None: None}[self.serving]

    @property
    def degraded(self) -> str | None:
        """Why the workspace is less protected than it should be, None when it is not."""
        if self.standby_lost is not None:
            return self.standby_lost.reason
        if self.refused is not None and self.recheck_at is not None:
            return f"no failover: {self.refused.reason}"
        if self.stale is not None:
            return f"the copy is stale: {self.stale.reason}"
        if self.held is not None:
            return f"the copy is held back: {self.held.reason}"
        if self.sync_failures >= self.policy.failover_threshold and self.sync_failure is not None:
            return f"{self.sync_failures} syncs in a row failed: {self.sync_failure.reason}"
        return None
