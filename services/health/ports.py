"""What health needs of the world."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.health.domain.detector import ProviderView, Ssh, Subject, Tcp


class ProviderError(Exception):
    """The provider answered, and not what was asked: it claims nothing about any machine."""


class ProviderUnreachableError(ProviderError):
    """Nobody answered at the provider."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a provider says of one machine, with its own words."""

    view: ProviderView
    text: str = ""


@dataclass(frozen=True, slots=True)
class Reached:
    """What was seen at the host itself. ``heartbeat`` is what its gate told, for telemetry."""

    tcp: Tcp
    ssh: Ssh
    text: str = ""
    heartbeat: Mapping[str, object] = field(default_factory=dict)


class Listing(Protocol):
    """A provider's account, read with a key that cannot change anything."""

    async def machines(self) -> Mapping[str, Report]:
        """Every machine, by its id at the provider. Raises ProviderError."""
        ...

    async def is_gone(self, provider_id: str) -> bool:
        """Whether the provider says by name that there is no such machine. Raises ProviderError."""
        ...


class ProviderStatus(Protocol):
    """What a provider says of a machine, at most ``max_age`` seconds ago. Never raises."""

    async def report(self, provider_id: str, *, max_age: float) -> Report: ...


class Reach(Protocol):
    """The host itself, by TCP and over SSH."""

    async def look(self, subject: Subject, *, host_ca: str, timeout: float) -> Reached:
        """Each of the two looks ends within ``timeout`` seconds. Never raises for what it meets."""
        ...
