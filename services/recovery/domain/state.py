"""What recovery believes about one workspace: a fold of its events, and nothing else."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shared.machines import Host, MachineId, Role, WorkspaceName
from shared.policy import Policy


class Phase(StrEnum):
    """Where a workspace is in its life."""

    UNREGISTERED = "UNREGISTERED"
    SEEDING = "SEEDING"
    ON_STANDBY = "ON_STANDBY"
    RECOVERING = "RECOVERING"
    FAILING_BACK = "FAILING_BACK"
    SYNCING = "SYNCING"
    FAILING_OVER = "FAILING_OVER"
    HALTED = "HALTED"
    REMOVED = "REMOVED"


class Step(StrEnum):
    """Where a recovery or failback is; NONE outside of them."""

    NONE = ""
    SEARCHING = "searching"
    PROVISIONING = "provisioning"
    WAITING_FOR_SSH = "waiting for SSH"
    RESTORING = "restoring"
    FREEZING = "freezing"
    LAST_DELTA = "last delta"
    SWITCHING = "switching"


class Serving(StrEnum):
    """Who the endpoint is meant to point at."""

    NOBODY = "nobody"
    STANDBY = "standby"
    GPU = "gpu"


class End(StrEnum):
    """What a machine that has no place any more is owed."""

    STOP = "stop"  # its disk is kept until the recovery is complete
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condemned:
    """A machine to be fenced. ``provider_id`` is empty when only its label is known.

    ``seen`` is true once the provider showed the end that was asked for. ``orphan``: it never
    served.
    """

    machine: MachineId
    provider: str
    provider_id: str
    end: End
    orphan: bool
    reason: str
    seen: bool = False
    keep: bool = False  # it may be stopped, its disk is its owner's, or all that is left
    role: Role = Role.GPU
    off_market: bool = False  # the provider has lost its host, and bills nothing for it

    @property
    def billed(self) -> bool:
        """Whether this may be a GPU that still runs, as far as we have seen."""
        return not self.seen and not self.off_market and self.provider == "vast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What one rented GPU costs, in US dollars an hour, as long as ``until`` is None."""

    machine: MachineId
    price_per_hour: float
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that people are to be told; ``severity`` is ``info``, ``warning``, ``critical``."""

    number: int
    severity: str
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """Somebody says that a machine is dead; we have not looked yet, or shall again."""

    machine: MachineId
    reason: str
    evidence: tuple[str, ...]
    recheck_at: datetime | None = None
    refused: str = ""  # why we did not fail over, as last said
    refusals: int = 0
    positive: bool = False  # health heard it of the provider
    since: datetime | None = None  # when it was seen first


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """A person wants the data as it was before a moment, whatever the GPU wrote since."""

    before: datetime
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """When the host certificate of ``machine`` is to be renewed; ``owed`` once that time came."""

    machine: MachineId
    at: datetime | None
    owed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at getting a GPU. ``failures`` counts passes of its restore that failed."""

    number: int = 1
    offer: str = ""
    market_machine: str = ""
    bid: float = 0.0
    label: MachineId | None = None
    host: Host | None = None
    deadline: datetime | None = None
    round: int = 1
    round_seconds: float = 0.0  # what the last whole round took
    failures: int = 0
    aborts: int = 0  # freezes that did not end in time
    converged: bool = False  # what is left to copy is small enough to freeze for
    frozen_at: datetime | None = None
    words: str = ""  # the provider's last ones while it keeps us waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyState:
    """The standby, or the way to one. ``host`` is None until it answered and was prepared."""

    host: Host | None = None
    own: Host | None = None  # a host of the user's: never created, stopped or destroyed by us
    attempt: int = 1
    label: MachineId | None = None
    wait_until: datetime | None = None
    lost: str = ""
    thaw_owed: bool = False
    suspicion: Suspicion | None = None
    losses: tuple[datetime, ...] = ()  # of Spot ones, within the policy's window
    on_demand: bool = False  # it was asked for as one that nobody takes away
    revivals: int = 0  # tries in a row at getting it back that failed

    @property
    def missing(self) -> bool:
        """Whether there is none that could serve."""
        return self.host is None or bool(self.lost)


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that a decision may rest on. Without slots: see ``changing``."""

    workspace: WorkspaceName
    epoch: int = 0
    phase: Phase = Phase.UNREGISTERED
    step: Step = Step.NONE
    serving: Serving = Serving.NOBODY
    path: str = ""
    origin: str = ""
    policy: Policy = field(default_factory=Policy)
    endpoint_port: int = 0
    paused: bool = False

    standby: StandbyState = field(default_factory=StandbyState)
    primary: Host | None = None
    primary_adopted: bool = False
    adopted: Host | None = None  # for ever: it is never ours to destroy
    primary_ready: bool = False
    primary_since: datetime | None = None

    attempt: Attempt = field(default_factory=Attempt)
    misses: int = 0  # attempts in a row that ended without a GPU
    wait_until: datetime | None = None
    excluded: frozenset[str] = frozenset()
    reason: str = ""  # why it is halted
    resume_owed: bool = False  # the first generation from a new GPU is still to come

    seal: int = 0  # the newest seal asked of sync
    sealed: int = 0  # the newest seal that sync reported
    complete: bool = False  # the first data is all there
    generation: str = ""  # the newest that the standby holds
    generation_bytes: int = 0
    generation_at: datetime | None = None  # when its source was seen as it is in there
    newest: str = ""  # the one that was sealed last, wherever it is now
    stale: bool = False  # said: the copy is older than the policy allows
    held: bool = False  # a shrunken source waits for a person's word
    accept_shrink: bool = False

    suspicion: Suspicion | None = None
    rollback: Rollback | None = None  # asked for, and not looked into yet
    promoting: str = ""  # the generation that a failover goes back to; empty: the newest
    condemned: tuple[Condemned, ...] = ()

    notices: tuple[Notice, ...] = ()  # owed to people, the oldest first
    notices_made: int = 0

    meters: tuple[Meter, ...] = ()  # of the last day and of this incident
    incident_since: datetime | None = None
    spend_told: str = ""  # the window whose limit was said to be reached in this incident
    renewals: tuple[Renewal, ...] = ()
