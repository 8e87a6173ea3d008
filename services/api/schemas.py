"""What HTTP clients send and see. What a request may not hold is refused, by name."""

import json
import re
from dataclasses import fields
from datetime import datetime
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from services.api.domain.narration import Severity
from services.api.domain.operations import Outcome
from services.api.domain.views import Billing, Phase
from shared.machines import Role, workspace_name
from shared.policy import Policy

VERSION = "0.1.0"
"""Of the contract: paths and fields are only ever added."""
PATH_LENGTH_MAX = 200


class Asked(BaseModel):
    """The base of all request bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- requests ------------------------------------------------------------------------------------


class Origin(StrEnum):
    """Where the first data comes from."""

    EMPTY = "empty"
    UPLOADED = "uploaded"
    ADOPTED = "adopted"


_SSH_HOST = re.compile(
    r"(?:(?P<user>[a-z_][a-z0-9_-]{0,31})@)?"
    r"(?P<address>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


def _ssh_host(text: str) -> str:
    found = _SSH_HOST.fullmatch(text)
    if not found or not 0 < int(found["port"] or 22) < 65536:
        raise ValueError(f"{text!r} is not a host; give it as user@host:port")
    return text


def _path(text: str) -> str:
    sound = re.fullmatch(r"(/[A-Za-z0-9._-]+)+/?", text) and ".." not in text.split("/")
    if not sound or len(text) > PATH_LENGTH_MAX:
        raise ValueError(
            f"path {text!r} is not usable: take an absolute directory of letters, digits, "
            "dots, hyphens and underscores, such as /workspace"
        )
    return text.rstrip("/")


def _overrides(values: dict[str, Any]) -> dict[str, Any]:
    """Check policy overrides as the whole policy they make. Returns only what was given."""
    known = [field.name for field in fields(Policy)]
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ValueError(f"there is no policy setting {name!r}{meant}")
    try:
        # As JSON, because strictly: true is no number, and "3" is none either.
        policy = _POLICY.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = str(first["msg"]).removeprefix("Value error, ").removeprefix("policy: ")
        raise ValueError(f"{where}: {reason}" if where else reason) from None
    whole = _POLICY.dump_python(policy, mode="json")
    return {name: whole[name] for name in values}


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("give one line of text, without control characters")
    return text


_POLICY = TypeAdapter(Policy)

SshHost = Annotated[str, AfterValidator(_ssh_host), Field(examples=["root@203.0.113.7:22"])]


class AdoptedHost(Asked):
    """The GPU that already holds the data: exactly one of the two."""

    ssh: SshHost | None = None
    vast_instance: Annotated[str | None, Field(pattern=r"^[0-9]{1,12}$")] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "AdoptedHost":
        if (self.ssh is None) == (self.vast_instance is None):
            raise ValueError("give either ssh as user@host:port or vast_instance, not both")
        return self


class StandbyHost(Asked):
    """A host of the user's own to be the standby; without one, one is created."""

    ssh: SshHost


class Registration(Asked):
    """A workspace to protect. ``policy`` holds only what differs from the defaults."""

    name: Annotated[str, AfterValidator(workspace_name), Field(examples=["train-7b"])]
    path: Annotated[str, AfterValidator(_path)] = "/workspace"
    origin: Origin = Origin.EMPTY
    adopted: AdoptedHost | None = None
    standby: StandbyHost | None = None
    policy: Annotated[dict[str, Any], AfterValidator(_overrides)] = Field(
        default_factory=dict, examples=[{"gpu_price_max": 0.4, "sync_interval": 15}]
    )

    @model_validator(mode="after")
    def _adopted_has_a_host(self) -> "Registration":
        if self.origin is Origin.ADOPTED and self.adopted is None:
            raise ValueError("origin adopted needs adopted: the host that holds the data")
        if self.origin is not Origin.ADOPTED and self.adopted is not None:
            raise ValueError(f"adopted goes with origin adopted, not with {self.origin.value}")
        return self

    def arguments(self) -> dict[str, Any]:
        """The registration as the arguments of its request event."""
        return {
            "path": self.path,
            "origin": self.origin.value,
            "policy": self.policy,
            "adopted": self._adopted(),
            "standby": host_values(f"{self.name}-standby", self.standby.ssh)
            if self.standby
            else None,
        }

    def _adopted(self) -> dict[str, Any] | None:
        if self.adopted is None:
            return None
        identity = f"{self.name}-adopted"
        if self.adopted.ssh is not None:
            return host_values(identity, self.adopted.ssh)
        return {
            "id": identity,
            "provider": "vast",
            "provider_id": self.adopted.vast_instance,
            "address": "",
            "port": 0,
        }


def host_values(identity: str, ssh: str) -> dict[str, Any]:
    """The fields of a Host that is reached as ``user@host:port``."""
    found = _SSH_HOST.fullmatch(ssh)
    assert found is not None
    address, port = found["address"].strip("[]"), int(found["port"] or 22)
    return {
        "id": identity,
        "provider": "ssh",
        "provider_id": f"{found['address']}:{port}",
        "address": address,
        "port": port,
        "user": found["user"] or "root",
    }


class Request(Asked):
    """Why, in words that the timeline will show."""

    reason: Annotated[str, Field(max_length=500), AfterValidator(_one_line)] = ""


class FailoverRequest(Request):
    """``allow_data_loss``: promote the copy that is there, however old it is.

    ``before``: promote the newest copy from before this moment, because the newer ones are spoilt;
    refused, with nothing given up, when there is none.
    """

    allow_data_loss: bool = False
    before: AwareDatetime | None = None


# --- answers -------------------------------------------------------------------------------------


class Shown(BaseModel):
    """The base of all answers: what is documented is all there is."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """An error, after RFC 9457: what went wrong and, in ``hint``, what to do about it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    hint: str = ""
    instance: str = ""


class TroubleShown(Shown):
    reason: str
    hint: str
    stage: str
    at: datetime


class EndpointShown(Shown):
    """Where people reach the workspace, whoever serves it. It never changes.

    ``host_ca``: every host of the workspace shows a certificate of this CA, under ``NAME.dumont``.
    """

    host: str | None
    port: int
    host_ca: str | None


class MachineShown(Shown):
    """A host in one role. ``utilisation`` (of its GPU, 0 to 1) and ``load`` are from its newest
    heartbeat, null without a fresh one; ``cost`` is US dollars since it was rented.
    """

    id: str
    role: Role
    provider: str
    provider_id: str
    host: str
    port: int
    status: str
    utilisation: float | None
    load: float | None
    price_per_hour: float
    cost: float
    failures: int
    description: str


class GenerationShown(Shown):
    """A sealed, verified copy on the standby."""

    id: str
    epoch: int
    sequence: int
    source: str
    files: int
    bytes: int
    bytes_changed: int
    manifest_sha256: str
    seconds: float
    taken_at: datetime
    completed_at: datetime
    position: int


class LagShown(Shown):
    """What would be lost if the GPU died now: seconds at most, bytes estimated."""

    seconds: float | None
    bytes: int | None
    text: str


class ProgressShown(Shown):
    bytes_done: int
    bytes_total: int
    percent: float


class RecoveryShown(Shown):
    """The way back onto a GPU. ``attempts`` is how many tries come at the short wait; later ones
    wait longer, without end, as long as the standby serves.
    """

    reason: str
    started_at: datetime
    step: str | None
    attempt: int
    attempts: int
    offer: str | None
    last_failure: TroubleShown | None
    next_attempt_at: datetime | None
    deadline: datetime | None
    round: int
    progress: ProgressShown | None


class FailoverShown(Shown):
    """The last failover; ``seconds`` from the decision until the standby served."""

    started_at: datetime
    completed_at: datetime | None
    reason: str
    seconds: float | None
    generation: str | None
    generation_age_seconds: float | None


class FailbackShown(Shown):
    """The last return to a GPU; ``pause_seconds``: how long nobody could write."""

    completed_at: datetime
    pause_seconds: float


class RefusalShown(Shown):
    """Why a failover that was asked for did not happen, and when we look again."""

    reason: str
    hint: str
    at: datetime
    recheck_at: datetime | None


class BilledShown(Shown):
    """A machine that costs money, or may. ``since``: when we asked for it."""

    id: str
    role: Role
    billing: Billing
    provider: str | None
    provider_id: str | None
    price_per_hour: float
    since: datetime
    cost: float


class WorkspaceShown(Shown):
    """The state of one workspace at ``position`` of the log. Prices are US dollars.

    ``primary`` is the machine that the endpoint points at, ``candidate`` the GPU that is being
    brought up. ``failures`` and ``threshold`` are those of the primary. ``next`` is what a person
    might type now.
    """

    name: str
    phase: Phase
    step: str | None
    epoch: int
    position: int
    origin: Origin
    path: str
    registered_at: datetime
    changed_at: datetime
    removed_at: datetime | None
    endpoint: EndpointShown
    serving: Role | None
    primary: MachineShown | None
    standby: MachineShown | None
    candidate: MachineShown | None
    sync_count: int
    last_sync_time: datetime | None
    last_generation: GenerationShown | None
    lag: LagShown
    failures: int
    threshold: int
    degraded: bool
    degraded_reason: str | None
    paused: bool
    paused_reason: str | None
    halted: TroubleShown | None
    recovery: RecoveryShown | None
    failover: FailoverShown | None
    failback: FailbackShown | None
    refused: RefusalShown | None
    standby_trouble: TroubleShown | None
    standby_next_attempt_at: datetime | None
    incident: str | None
    billed: list[BilledShown]
    price_per_hour: float
    double_billed_seconds: float
    next: str | None
    policy: dict[str, Any]


class WorkspacesShown(Shown):
    workspaces: list[WorkspaceShown]


class LineShown(Shown):
    """One event of a timeline, told in a sentence. ``evidence``: what a verdict rests on."""

    position: int
    id: str
    at: datetime
    event: str
    text: str
    severity: Severity
    source: str
    epoch: int
    incident: str | None
    causation: str | None
    evidence: list[str]


class TimelineShown(Shown):
    """``next`` is the ``after`` of the following page, null at the end of the log."""

    workspace: str
    entries: list[LineShown]
    next: int | None


class GenerationsShown(Shown):
    """The newest 1,000 generations that the log tells of, oldest first."""

    workspace: str
    generations: list[GenerationShown]


class OperationShown(Shown):
    """One request and what became of it.

    ``recorded`` is false while it was taken but is not in the log yet. ``reason`` and ``hint``
    say why it was refused or failed.
    """

    id: str
    workspace: str
    verb: str
    actor: str
    status: Outcome
    recorded: bool
    position: int | None
    requested_at: datetime
    ended_at: datetime | None
    reason: str | None
    hint: str | None


class CloudEventShown(BaseModel):
    """One recorded event as a CloudEvent 1.0 in structured JSON, as on the bus."""

    model_config = ConfigDict(extra="allow")

    specversion: Literal["1.0"]
    id: str
    source: str
    type: Annotated[str, Field(examples=["dumont.FailoverCompleted.v1"])]
    subject: str
    time: datetime
    datacontenttype: str
    epoch: int
    position: int
    correlationid: str | None = None
    causationid: str | None = None
    data: dict[str, Any]


class EventsShown(Shown):
    """``next`` is the ``after`` of the following page, null at the end of the log."""

    events: list[CloudEventShown]
    next: int | None


class WaitShown(Shown):
    """What ``service`` waits for, why it does not come, and for how many seconds now."""

    service: str
    what: str
    reason: str
    seconds: float


class ReadyShown(Shown):
    """Whether the stack does its work: ``position`` of the log that the api has read up to.

    ``acting`` says of each service whether it was heard of lately, and ``waits`` what any of them
    waits for. ``log_head`` is POSITION:HASH TIME of the log as recovery last exported it: keep it
    elsewhere, and `dumont log verify --head` shows what was done to the log since.
    ``ssh_public_key``: a host of yours must let this key in as root before it can be
    protected.
    """

    ready: bool
    log: bool
    bus: bool
    caught_up: bool
    acting: dict[str, bool]
    waits: list[WaitShown]
    position: int
    log_head: str | None
    configured: dict[str, bool] | None
    not_configured: list[str]
    ssh_public_key: str | None
