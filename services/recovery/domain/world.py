"""The world as recovery's decisions see it: machines, offers, sightings. Values only."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shared.machines import MachineId, Role, WorkspaceName
from shared.policy import Policy


class RentalStatus(StrEnum):
    """What the provider says of a machine. UNKNOWN is a third answer, never "gone"."""

    BOOTING = "booting"
    RUNNING = "running"
    STOPPED = "stopped"
    LOST = "lost"
    FAILED = "failed"
    UNKNOWN = "unknown"


DEAD = {RentalStatus.STOPPED, RentalStatus.FAILED}
"""What the provider itself says can neither serve nor come up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rental:
    """A machine that we pay for; ``address`` and ``port`` are None until the provider knows."""

    label: MachineId
    provider: str
    provider_id: str
    status: RentalStatus
    address: str | None
    port: int | None
    price_per_hour: float
    description: str = ""
    status_text: str = ""
    market_machine: str = ""

    @property
    def shown(self) -> str:
        """Its status with the provider's own words."""
        return f"{self.status} {self.status_text}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A machine on the market. Prices are US dollars an hour, with the wanted disk included."""

    id: str
    market_machine: str
    owner: str
    gpu_name: str
    gpu_count: int
    gpu_ram_gb: float
    price_per_hour: float
    bid_min: float
    reliability: float
    country: str
    down_mbps: float
    up_mbps: float
    direct_ports: int
    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to rent. ``label`` is the idempotency key: at most one machine ever carries it.

    ``retried`` says that the order may have been placed before this process began (its intent
    was found in the log): the provider then does not take "none" for an answer at once.
    """

    label: MachineId
    role: Role
    policy: Policy
    bootstrap_public_key: str
    offer: str = ""
    bid: float = 0.0
    retried: bool = False


class Sighting(StrEnum):
    """What recovery saw when it looked at a host itself."""

    ANSWERS = "answers"
    SILENT = "silent"
    UNKNOWN = "unknown"  # our own credential, clock or network is in doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What ``prepare`` is to make of a fresh host."""

    workspace: WorkspaceName
    role: Role
    path: str
    epoch: int
    policy: Policy
    adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """The standby's answer to ``promote``. ``age_seconds`` is that of the promoted generation.

    ``damaged`` are newer generations that the standby's disk does not have whole any more.
    """

    generation: str
    files: int
    bytes: int
    age_seconds: float | None
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where an endpoint port leads. None in place of one: the port serves nobody."""

    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One generation on a standby: between which moments its source was read, and whether it is
    whole as far as is known.
    """

    generation: str
    taken_at: datetime
    sealed_at: datetime
    whole: bool
