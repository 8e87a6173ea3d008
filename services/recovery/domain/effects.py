"""What recovery can owe the world. Each may be carried out twice: its fields are its key."""

from dataclasses import dataclass

from services.recovery.domain.state import Condemned, Notice, Rollback, Suspicion
from shared.machines import Host, MachineId, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionStandby:
    """Create or adopt the standby under ``label``, prepare it and give it the epoch."""

    label: MachineId
    attempt: int
    epoch: int
    own: Host | None
    serve: bool
    revive: Host | None
    """The standby that was lost, to be started again."""
    again: bool = False
    """Whether it takes the place of one that was lost."""
    on_demand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmStandbyLoss:
    """Look at the suspected standby ourselves."""

    epoch: int
    host: Host
    suspicion: Suspicion


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewHost:
    """Give a host in service a fresh host certificate."""

    epoch: int
    host: Host
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareAdopted:
    """Install the gate on a GPU that already holds the data. Nothing else there is touched."""

    host: Host
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOffers:
    """Ask the market and choose."""

    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RentGpu:
    """Rent under ``label``, or adopt what carries it."""

    attempt: int
    epoch: int
    label: MachineId
    offer: str
    bid: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitGpu:
    """Wait until the rented GPU answers, then prepare it."""

    attempt: int
    epoch: int
    host: Host


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchCandidate:
    """Notice when the market takes the new GPU before it serves."""

    attempt: int
    epoch: int
    host: Host


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmDeath:
    """Look at the suspected primary ourselves. ``alone``: nobody else has the data."""

    epoch: int
    host: Host
    suspicion: Suspicion
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FindGeneration:
    """Look on the standby for the copy that a person wants to go back to."""

    epoch: int
    rollback: Rollback


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteStandby:
    """Fence the old epoch on the standby, let it serve, lead the endpoint there and see it.

    ``generation`` is what it serves in place of its newest copy; mostly empty.
    """

    epoch: int
    host: Host
    generation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeStandby:
    """Nobody may write on the standby from here on."""

    attempt: int
    epoch: int
    host: Host
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawStandby:
    """People may write on the standby again."""

    attempt: int
    epoch: int
    host: Host


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchToGpu:
    """Retire the standby's epoch, lead the endpoint to the GPU and see it.

    ``standby`` is None when it is lost: frozen and with no way to it, it is retired once it is
    back, and the GPU does not wait for that.
    """

    epoch: int
    standby: Host | None
    host: Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Stop or destroy a machine, and see it."""

    condemned: Condemned
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendNotice:
    """Tell people, without their asking."""

    notice: Notice
    epoch: int


Effect = (
    ProvisionStandby
    | ConfirmStandbyLoss
    | RenewHost
    | PrepareAdopted
    | SearchOffers
    | RentGpu
    | AwaitGpu
    | WatchCandidate
    | ConfirmDeath
    | FindGeneration
    | PromoteStandby
    | FreezeStandby
    | ThawStandby
    | SwitchToGpu
    | Fence
    | SendNotice
)
