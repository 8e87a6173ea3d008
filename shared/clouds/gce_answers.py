"""What the Compute Engine API is told and says of a VM, without Google's client."""

from dataclasses import dataclass, field

from shared.clouds.states import MachineState, Said

_STATES = {
    "PENDING": MachineState.BOOTING,
    "PROVISIONING": MachineState.BOOTING,
    "STAGING": MachineState.BOOTING,
    "RUNNING": MachineState.RUNNING,
    "REPAIRING": MachineState.LOST,
    "PENDING_STOP": MachineState.STOPPED,
    "STOPPING": MachineState.STOPPED,
    "STOPPED": MachineState.STOPPED,
    "TERMINATED": MachineState.STOPPED,
    "SUSPENDING": MachineState.STOPPED,
    "SUSPENDED": MachineState.STOPPED,
    "DEPROVISIONING": MachineState.STOPPED,
}
_AT_REST = frozenset({"TERMINATED", "STOPPED", "SUSPENDED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """A VM to create. ``metadata`` may hold ``startup-script``, run as root on every boot."""

    name: str
    machine_type: str
    disk_gb: int
    spot: bool
    image: str
    labels: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM as the service shows it. ``address`` is its external one, None until it has one."""

    name: str
    zone: str
    id: int
    status: str
    address: str | None
    machine_type: str
    spot: bool
    labels: dict[str, str]

    @property
    def said(self) -> Said:
        state = _STATES.get(self.status, MachineState.UNKNOWN)
        return Said(state, self.status.lower().replace("_", " ")[:40])

    @property
    def at_rest(self) -> bool:
        return self.status in _AT_REST
