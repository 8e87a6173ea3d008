"""What every action has at hand."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.recovery.actions.fleet import Fleet
from services.recovery.domain.brake import Brake
from services.recovery.domain.state import State
from services.recovery.keeper import Keeper
from services.recovery.ports import (
    CredentialError,
    Hosts,
    MachineProvider,
    Market,
    Notices,
    Plan,
    ProviderError,
    Rental,
)
from services.recovery.service import Recovery
from shared.clock import Now
from shared.events import Event
from shared.machines import Host, MachineId, Role, WorkspaceName

LOST_SIGHTINGS = 2
"""A host that the market shows as offline so many times in a row is lost, not blinking."""

Outcomes = Sequence[Event]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often to look, in seconds. ``settle``: how long an unanswered rental may show up.

    ``renewal``: how long after one host certificate the next is due; several of them fit into
    its life.
    """

    poll: float = 3.0
    endpoint: float = 0.05
    endpoint_patience: float = 5.0
    settle: float = 60.0
    renewal: float = 6 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """``providers`` maps ``vast``, ``gce`` to adapters; ``may_act`` raises without a lease."""

    recovery: Recovery
    providers: Mapping[str, MachineProvider]
    market: Market | None
    hosts: Hosts
    keeper: Keeper
    notices: Notices
    bootstrap_public_key: str
    host_ca: Callable[[WorkspaceName], str]
    may_act: Callable[[], object]
    now: Now
    pace: Pace
    brake: Brake = field(default_factory=Brake)
    fleet: Fleet = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fleet", Fleet(self.recovery, self.hosts, self.brake))

    def provider(self, name: str) -> MachineProvider:
        """Raises CredentialError when it is not configured."""
        try:
            return self.providers[name]
        except KeyError:
            raise CredentialError(
                f"the provider {name} is not configured",
                "set its address and key for the recovery service",
            ) from None

    async def until_answers(self, host: Host) -> None:
        """As long as it takes: who calls sets the limit."""
        while not await self.hosts.answers(host):
            await asyncio.sleep(self.pace.poll)


async def view_of(at: Tools, host: Host) -> tuple[Rental | None, str]:
    """What the provider of a machine shows, or why it could not be asked."""
    try:
        return await at.provider(host.provider).get(host.provider_id), ""
    except ProviderError as error:
        return None, f"{host.provider} could not be asked: {error}"


def plan_for(state: State, role: Role, epoch: int) -> Plan:
    """What a host is to be made of."""
    return Plan(
        workspace=state.workspace, role=role, path=state.path, epoch=epoch, policy=state.policy
    )


def host_of(rental: Rental) -> Host:
    """A rental as a host; without an address yet, its port is 0."""
    return Host(
        id=MachineId(rental.label),
        provider=rental.provider,
        provider_id=rental.provider_id,
        address=rental.address or "",
        port=rental.port or 0,
        price_per_hour=rental.price_per_hour,
        description=rental.description,
    )
