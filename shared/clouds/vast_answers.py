"""The answers of the Vast API as typed values.

Vast leaves out fields, sends null and adds new ones: everything but an id may be missing, and a
value of the wrong type counts as missing. Decide on state fields only; texts may be stale.
"""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WrapValidator
from pydantic import ValidatorFunctionWrapHandler as Handler

from shared.clouds.states import MachineState, Said

T = TypeVar("T")

SSH_PORT = "22/tcp"
_ERROR_WORDS = ("error", "failed", "no such image", "already allocated", "not found", "denied")
_AT_REST = frozenset({"stopped", "exited", "frozen"})
_ON_ITS_WAY = frozenset(
    {"created", "loading", "scheduling", "rebooting", "recycling", "restarting"}
)


def _missing_if_wrong(value: Any, handler: Handler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


Maybe = Annotated[T | None, WrapValidator(_missing_if_wrong)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PortBinding(_Answer):
    """Where a port of the container is reached; the number comes as a string."""

    HostIp: Maybe[str] = None
    HostPort: Maybe[int] = None


class Ask(_Answer):
    """One row of a search. Prices in US dollars an hour, RAM in MB, network in Mbit/s."""

    id: int
    machine_id: Maybe[int] = None
    host_id: Maybe[int] = None
    num_gpus: Maybe[int] = None
    gpu_name: Maybe[str] = None
    gpu_ram: Maybe[float] = None
    disk_space: Maybe[float] = None
    dph_total: Maybe[float] = None
    min_bid: Maybe[float] = None
    reliability: Maybe[float] = None
    reliability2: Maybe[float] = None
    geolocation: Maybe[str] = None
    inet_up: Maybe[float] = None
    inet_down: Maybe[float] = None
    direct_port_count: Maybe[int] = None
    verification: Maybe[str] = None
    rentable: Maybe[bool] = None
    rented: Maybe[bool] = None
    external: Maybe[bool] = None

    @property
    def country(self) -> str:
        """The two-letter code at the end of ``geolocation``, or nothing."""
        return country_of(self.geolocation)


class Instance(_Answer):
    """One rented machine."""

    id: int
    label: Annotated[str, BeforeValidator(lambda value: "" if value is None else value)] = ""
    machine_id: Maybe[int] = None
    actual_status: Maybe[str] = None
    intended_status: Maybe[str] = None
    cur_state: Maybe[str] = None
    next_state: Maybe[str] = None
    status_msg: Maybe[str] = None
    image_runtype: Maybe[str] = None
    ssh_host: Maybe[str] = None
    ssh_port: Maybe[int] = None
    public_ipaddr: Maybe[str] = None
    ports: Maybe[dict[str, Maybe[list[PortBinding]]]] = None
    num_gpus: Maybe[int] = None
    gpu_name: Maybe[str] = None
    gpu_util: Maybe[float] = None
    is_bid: Maybe[bool] = None
    min_bid: Maybe[float] = None
    dph_base: Maybe[float] = None
    dph_total: Maybe[float] = None
    geolocation: Maybe[str] = None

    @property
    def destroyed(self) -> bool:
        return self.cur_state == "unloaded"

    @property
    def stopped_for_good(self) -> bool:
        """Nobody wants it to run, and what the host last reported does not run."""
        wanted = {self.intended_status, self.cur_state} == {"stopped"}
        at_rest = self.said.state in (MachineState.STOPPED, MachineState.FAILED)
        return wanted and at_rest and self.actual_status != "running"

    @property
    def said(self) -> Said:
        return said(self)

    @property
    def ssh_address(self) -> tuple[str, int] | None:
        """Where sshd is reached: directly where the port is mapped, else through Vast's proxy."""
        address = (self.public_ipaddr or "").strip()
        bindings = (self.ports or {}).get(SSH_PORT) or []
        direct = [b.HostPort for b in bindings if b.HostPort and ":" not in (b.HostIp or "")]
        if address and direct:
            return address, direct[0]
        if self.said.state is MachineState.RUNNING and self.ssh_host and self.ssh_port:
            jupyter = "jupyter" in (self.image_runtype or "")
            return self.ssh_host.strip(), self.ssh_port + (1 if jupyter else 0)
        return None


def country_of(geolocation: str | None) -> str:
    """``Bangkok, TH`` -> ``TH``; an empty string when there is no code."""
    code = (geolocation or "").strip()[-2:]
    return code if len(code) == 2 and code.isalpha() and code.isupper() else ""


def said(row: Instance) -> Said:
    """What a row says of its machine.

    There is no reason field: that a bid was lost is deduced from a machine that is stopped,
    either although it is wanted running (form A) or with every field at stopped (form B, which
    is also what a stop by us looks like).
    """
    actual, now = row.actual_status, row.cur_state
    states = (row.intended_status, now, row.next_state)
    if actual is None and not any(states):
        return Said(MachineState.UNKNOWN, "no status")
    if actual in ("offline", "unknown"):
        return Said(MachineState.LOST, f"host {actual}")
    if "stopped" in states or (actual in _AT_REST and now != "running"):
        return _stopped(row)
    if actual == "stopped":  # form A with cur_state still at running
        return Said(MachineState.STOPPED, "outbid" if row.is_bid else "stopped")
    if actual == "exited":
        return Said(MachineState.FAILED, "its container ended")
    if actual == "frozen":
        return Said(MachineState.STOPPED, "frozen")
    if actual == "running":
        return Said(MachineState.RUNNING, "running")
    if actual is None or actual in _ON_ITS_WAY:
        return Said(MachineState.BOOTING, actual or "being provisioned")
    return Said(MachineState.UNKNOWN, f"status {actual[:40]!r}")


def _stopped(row: Instance) -> Said:
    text = (row.status_msg or "").lower()
    never_ran = row.actual_status in (None, "created", "loading")
    if never_ran and any(word in text for word in _ERROR_WORDS):
        return Said(MachineState.FAILED, f"did not boot: {text[:200]}")
    if row.cur_state == "scheduling":
        return Said(MachineState.STOPPED, "waiting for resources")
    return Said(MachineState.STOPPED, "outbid" if row.is_bid else "stopped")
