"""What recovery needs of the world, and the errors that its adapters sort trouble into."""

from collections.abc import Sequence
from typing import Protocol

from services.recovery.domain.state import Notice
from services.recovery.domain.world import (
    Backend,
    Copy,
    Offer,
    Order,
    Plan,
    Promotion,
    Rental,
    RentalStatus,
    Sighting,
)
from shared.machines import Host, MachineId, WorkspaceName
from shared.policy import Policy

__all__ = [
    "Backend",
    "Copy",
    "CredentialError",
    "Endpoint",
    "EndpointError",
    "HostError",
    "HostUnreachableError",
    "HostUnsuitableError",
    "Hosts",
    "MachineLimitError",
    "MachineProvider",
    "Market",
    "NoCapacityError",
    "NoGenerationError",
    "NoticeError",
    "Notices",
    "Offer",
    "OfferGoneError",
    "Order",
    "OutcomeUnknownError",
    "Plan",
    "Promotion",
    "ProviderError",
    "Rental",
    "RentalStatus",
    "Sighting",
]


class ProviderError(Exception):
    """The provider refused or failed; ``hint`` says what a person may do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class NoCapacityError(ProviderError):
    """Nothing on the market fits now; another attempt later may."""


class OfferGoneError(NoCapacityError):
    """The chosen offer was taken or withdrawn: choose another."""


class CredentialError(ProviderError):
    """The provider does not accept our key: a person must act."""


class OutcomeUnknownError(ProviderError):
    """No usable answer: the call may have happened. Settle it by the label."""


class MachineLimitError(ProviderError):
    """The workspace has a machine already that must end first: try again."""


class MachineProvider(Protocol):
    """A cloud or a market. Every call may be repeated: ``label`` and ``provider_id`` are keys."""

    async def provision(self, order: Order) -> Rental:
        """Return the machine that carries ``order.label``, renting one only if none does.

        A listing that failed or was empty where the call may have happened is not "none": raises
        OutcomeUnknownError, to be called again. Raises NoCapacityError, OfferGoneError,
        CredentialError, ProviderError.
        """
        ...

    async def get(self, provider_id: str) -> Rental | None:
        """One machine as it is now; None only on the provider's word that it is gone.

        Raises ProviderError.
        """
        ...

    async def find(self, label: MachineId) -> tuple[Rental, ...]:
        """All machines that carry exactly this label. Raises ProviderError, never guesses."""
        ...

    async def inventory(self, prefix: str) -> tuple[Rental, ...]:
        """All machines whose label begins with ``prefix``, every page. Raises ProviderError."""
        ...

    async def start(self, provider_id: str) -> None:
        """Ask a stopped machine to run again. Raises NoCapacityError, ProviderError."""
        ...

    async def stop(self, provider_id: str) -> bool:
        """Ask it to stop; True once the provider shows it stopped or gone. Call again until so."""
        ...

    async def destroy(self, provider_id: str) -> bool:
        """Ask for its end; True once the provider shows it gone. Call again until so."""
        ...


class Market(Protocol):
    """Where GPUs are offered."""

    async def search(self, policy: Policy) -> Sequence[Offer]:
        """Rentable offers that meet the hard limits of ``policy``, re-checked on our side.

        An empty answer means that the market answered and has none. Raises ProviderError.
        """
        ...


class HostError(Exception):
    """A host could not do what was asked; ``hint`` says what a person may do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class HostUnreachableError(HostError):
    """Nobody answered, or the session broke: try again."""


class HostUnsuitableError(HostError):
    """It answered and lacks what is needed, or refused for good: this host will not do."""


class NoGenerationError(HostUnsuitableError):
    """The standby was to serve, and its store holds no generation at all."""


class Hosts(Protocol):
    """Machines reached by SSH: with the bootstrap key to prepare, through the gate afterwards."""

    async def answers(self, host: Host) -> bool:
        """Whether sshd accepts our bootstrap key. False also while it is still booting."""
        ...

    async def locate(self, host: Host) -> Host:
        """The same host with its IP address in place of a name. Raises HostUnreachableError."""
        ...

    async def prepare(self, host: Host, plan: Plan) -> None:
        """Install gate, keys and host certificate; idempotent per (host, epoch).

        Raises HostUnreachableError, HostUnsuitableError.
        """
        ...

    async def look(self, host: Host, *, workspace: WorkspaceName, epoch: int) -> Sighting:
        """Look at a host by TCP and SSH, within ``look_timeout``."""
        ...

    async def copies(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int
    ) -> Sequence[Copy]:
        """The generations that the standby holds, oldest first.

        Raises HostUnreachableError, HostUnsuitableError.
        """
        ...

    async def promote(
        self,
        standby: Host,
        *,
        workspace: WorkspaceName,
        epoch: int,
        serve: bool,
        generation: str = "",
    ) -> Promotion:
        """Raise the standby's epoch; with ``serve`` put the newest generation in people's hands.

        With ``generation`` it is that one, and the newer ones are passed over from then on; when it
        is not kept any more, the newest before it. When this returns no job of a lower epoch lives
        there. Idempotent per epoch. Raises HostUnreachableError, HostUnsuitableError,
        NoGenerationError.
        """
        ...

    async def freeze(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int, timeout: float
    ) -> None:
        """End people's sessions and processes; nothing can write the promoted tree afterwards."""
        ...

    async def thaw(self, standby: Host, *, workspace: WorkspaceName, epoch: int) -> None:
        """Let people in again."""
        ...


class NoticeError(Exception):
    """Nobody could be told: try again."""


class Notices(Protocol):
    """How people are told without asking."""

    async def send(self, workspace: WorkspaceName, notice: Notice) -> str:
        """Tell them; returns the channel it went by. May be repeated. Raises NoticeError."""
        ...


class EndpointError(Exception):
    """The load balancer did not answer or did not do what was asked: try again."""


class Endpoint(Protocol):
    """The stable addresses, one port a workspace."""

    async def read(self) -> dict[int, Backend | None]:
        """What each declared port leads to now. Raises EndpointError."""
        ...

    async def point(self, port: int, backend: Backend | None) -> None:
        """Lead new connections there and close those that lead elsewhere. Raises EndpointError."""
        ...

    async def seen(self, port: int, *, workspace: WorkspaceName, epoch: int) -> MachineId | None:
        """The machine that answers through the endpoint with this workspace's identity, or None."""
        ...
