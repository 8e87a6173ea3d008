"""Everything the recovery service can say: decisions, intents and outcomes."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from shared.events.base import Event
from shared.machines import Host, MachineId, Role
from shared.policy import Policy

# --- the workspace ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceRegistered(Event):
    """A workspace exists. ``origin`` is ``empty``, ``uploaded`` or ``adopted``.

    ``adopted`` is the GPU that already holds the data; ``standby`` is a host of the user's own,
    None when one is to be created.
    """

    type: ClassVar[str] = "WorkspaceRegistered"

    path: str
    origin: str
    policy: Policy
    endpoint_port: int
    adopted: Host | None = None
    standby: Host | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceRemoved(Event):
    """The workspace is to be given up: its machines are owed their end."""

    type: ClassVar[str] = "WorkspaceRemoved"

    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused(Event):
    """A request was not carried out, and why, in words for a person."""

    type: ClassVar[str] = "RequestRefused"

    verb: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAccepted(Event):
    """A request that changes nothing else in the log was taken (an upload that is complete)."""

    type: ClassVar[str] = "RequestAccepted"

    verb: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspacePaused(Event):
    """Automatic failover and recovery are off until resumed."""

    type: ClassVar[str] = "WorkspacePaused"

    actor: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceResumed(Event):
    """Automatic failover and recovery are on again."""

    type: ClassVar[str] = "WorkspaceResumed"

    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationAccepted(Event):
    """A person says that the shrunken source is right: the next sync may seal it."""

    type: ClassVar[str] = "GenerationAccepted"

    actor: str = ""


# --- machines --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferSelected(Event):
    """The market was searched and one offer chosen, with the reason."""

    type: ClassVar[str] = "OfferSelected"

    attempt: int
    offer: str
    market_machine: str
    price_per_hour: float
    bid: float
    description: str
    offers_seen: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionRequested(Event):
    """We are about to rent: written before the call, with the label that makes it findable."""

    type: ClassVar[str] = "ProvisionRequested"

    role: Role
    attempt: int
    label: MachineId
    offer: str = ""
    bid: float = 0.0
    deadline: datetime | None = None
    on_demand: bool = False
    """A standby that must not be a Spot one, whatever the policy prefers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProvisioned(Event):
    """A GPU is rented and billed. It has until ``ssh_deadline`` to answer."""

    type: ClassVar[str] = "GpuProvisioned"

    attempt: int
    host: Host
    ssh_deadline: datetime
    rented_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyProvisioned(Event):
    """The standby exists, answers, and carries our gate.

    ``host_ca`` is the public key line by which every host of the workspace is known;
    ``renew_at`` when its host certificate is to be renewed.
    """

    type: ClassVar[str] = "StandbyProvisioned"

    attempt: int
    host: Host
    host_ca: str = ""
    renew_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionFailed(Event):
    """An attempt to get a machine ended without one in service.

    ``stage`` is ``search``, ``rent``, ``ssh``, ``prepare``, ``restore`` or ``lost``.
    """

    type: ClassVar[str] = "ProvisionFailed"

    role: Role
    attempt: int
    stage: str
    reason: str
    hint: str = ""
    market_machine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitScheduled(Event):
    """The next attempt begins at ``until``; ``hint`` says what might help before that."""

    type: ClassVar[str] = "WaitScheduled"

    role: Role
    attempt: int
    until: datetime
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEnded(Event):
    """The wait before ``attempt`` is over."""

    type: ClassVar[str] = "WaitEnded"

    role: Role
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReady(Event):
    """The new GPU answers SSH, has what a restore needs and carries our gate."""

    type: ClassVar[str] = "GpuReady"

    attempt: int
    host: Host
    restore_deadline: datetime
    host_ca: str = ""
    renew_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryFenced(Event):
    """A machine that must not serve was seen unable to: ``how`` is ``stopped`` or ``destroyed``.

    It is the GPU that was given up, or a standby that another one replaces.
    """

    type: ClassVar[str] = "PrimaryFenced"

    machine: MachineId
    provider_id: str
    how: str
    seen_at: datetime | None = None
    role: Role = Role.GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceDelayed(Event):
    """A machine was told to end, and its host is off the market: it costs nothing, and is awaited.

    The provider holds it as lost. Should its host return, its end goes on where it was.
    """

    type: ClassVar[str] = "FenceDelayed"

    machine: MachineId
    provider_id: str
    seen_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ZombieSeen(Event):
    """A fenced or unknown machine with our label runs again: it is to be destroyed."""

    type: ClassVar[str] = "ZombieSeen"

    machine: MachineId
    provider: str
    provider_id: str
    reason: str
    seen_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanDestroyed(Event):
    """A machine of ours that had no place in the state was destroyed and seen to be gone."""

    type: ClassVar[str] = "OrphanDestroyed"

    machine: MachineId
    provider_id: str
    reason: str
    seen_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendLimitReached(Event):
    """Nothing is rented for now: ``spent`` in this window is not less than ``maximum``.

    US dollars of rented GPUs; ``window`` is ``hour``, ``day`` or ``incident``.
    """

    type: ClassVar[str] = "SpendLimitReached"

    window: str
    spent: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyLost(Event):
    """The standby is gone or does not answer: no failover is possible until it is back.

    ``gone``: its provider says that it is no more, and its disk with it.
    """

    type: ClassVar[str] = "StandbyLost"

    machine: MachineId
    reason: str
    evidence: tuple[str, ...] = ()
    gone: bool = False
    lost_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyLossRefused(Event):
    """Somebody says that the standby is lost and we do not believe it, or cannot tell yet.

    ``recheck_at`` when we look again.
    """

    type: ClassVar[str] = "StandbyLossRefused"

    machine: MachineId
    reason: str
    recheck_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyStale(Event):
    """The newest copy is older than the policy allows: no automatic failover until a newer one."""

    type: ClassVar[str] = "StandbyStale"

    machine: MachineId
    generation: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyRestored(Event):
    """A standby is back in place (the same or a new one) and is being seeded.

    ``generation`` is the newest one that it holds: empty when its store is empty.
    """

    type: ClassVar[str] = "StandbyRestored"

    host: Host
    generation: str = ""
    renew_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalDue(Event):
    """The host certificate of a host in service is to be renewed now."""

    type: ClassVar[str] = "RenewalDue"

    machine: MachineId
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRenewed(Event):
    """A host in service has a fresh host certificate; the next one is due at ``renew_at``."""

    type: ClassVar[str] = "HostRenewed"

    machine: MachineId
    role: Role
    renew_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectFailing(Event):
    """Something that is owed fails again and again; it goes on being tried. Said once.

    ``effect`` names what is owed, in words; ``hint`` says what a person may do.
    """

    type: ClassVar[str] = "EffectFailing"

    effect: str
    tries: int
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeSent(Event):
    """People were told: ``channel`` is ``log`` or ``webhook``, ``severity`` as in the timeline.

    Notices of a workspace are numbered from 1; one may be delivered twice, under its number.
    """

    type: ClassVar[str] = "NoticeSent"

    number: int
    severity: str
    text: str
    channel: str


# --- failover --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequested(Event):
    """A person gives the GPU up for a copy of ``before``; first the standby is asked for one."""

    type: ClassVar[str] = "RollbackRequested"

    before: datetime
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRefused(Event):
    """There is no such copy, or no failover now: nothing was given up for it."""

    type: ClassVar[str] = "RollbackRefused"

    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverStarted(Event):
    """The primary counts as dead; ``epoch`` is the new one, under which the standby will serve.

    ``generation`` is the copy to serve in place of the newest, which is spoilt; mostly empty.
    """

    type: ClassVar[str] = "FailoverStarted"

    machine: MachineId
    reason: str
    evidence: tuple[str, ...] = ()
    actor: str = "recovery"
    generation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverRefused(Event):
    """No failover although one was asked for, and why. ``recheck_at`` when we look again.

    ``hint`` says what a person may do about it.
    """

    type: ClassVar[str] = "FailoverRefused"

    machine: MachineId
    reason: str
    recheck_at: datetime | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverCompleted(Event):
    """The standby is the endpoint: seen through the endpoint, under the new epoch.

    ``damaged`` are newer generations that were passed over: the disk does not have them whole.
    """

    type: ClassVar[str] = "FailoverCompleted"

    standby: MachineId
    generation: str
    seconds: float
    generation_age_seconds: float | None = None
    damaged: tuple[str, ...] = ()


# --- recovery and failback -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryStarted(Event):
    """A GPU is wanted: search, rent, wait, restore, verify, fail back."""

    type: ClassVar[str] = "RecoveryStarted"

    reason: str
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryHalted(Event):
    """We cannot go on without a person. ``reason`` says why and ``hint`` what to do.

    ``code`` is for programs, and the name of the runbook's section on it.
    """

    type: ClassVar[str] = "RecoveryHalted"

    reason: str
    hint: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailbackStarted(Event):
    """The rest of the delta is small: the standby is about to be frozen for the last one."""

    type: ClassVar[str] = "FailbackStarted"

    machine: MachineId
    attempt: int
    freeze_deadline: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyFrozen(Event):
    """Nothing can write on the standby any more; the last generation may be sealed."""

    type: ClassVar[str] = "StandbyFrozen"

    attempt: int
    frozen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FailbackAborted(Event):
    """The freeze did not end in time: the standby serves again, and we try after ``retry_at``."""

    type: ClassVar[str] = "FailbackAborted"

    attempt: int
    reason: str
    retry_at: datetime
    restore_deadline: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyThawed(Event):
    """After an aborted failback: people can write on the standby again."""

    type: ClassVar[str] = "StandbyThawed"

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailbackVerified(Event):
    """The last delta is on the GPU and verified; ``epoch`` is the new one, for the GPU.

    ``switch_deadline``: if the GPU does not answer through the endpoint by then, the standby
    takes over again.
    """

    type: ClassVar[str] = "FailbackVerified"

    machine: MachineId
    generation: str
    switch_deadline: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FailbackCompleted(Event):
    """The GPU is the endpoint again. ``pause_seconds``: how long nobody could write."""

    type: ClassVar[str] = "FailbackCompleted"

    machine: MachineId
    pause_seconds: float
    completed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResumed(Event):
    """The first generation taken from the new GPU is sealed."""

    type: ClassVar[str] = "SyncResumed"

    generation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryCompleted(Event):
    """The workspace is on a GPU, protected, and one machine is billed for it."""

    type: ClassVar[str] = "RecoveryCompleted"

    machine: MachineId
    attempts: int
