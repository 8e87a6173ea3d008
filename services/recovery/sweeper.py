"""Looks through the providers' accounts for machines of ours that must not be."""

import asyncio
from collections.abc import Mapping

import structlog

from services.recovery.domain.labels import workspace_of
from services.recovery.domain.sweep import zombie
from services.recovery.ports import MachineProvider, ProviderError
from services.recovery.service import Recovery
from shared.clock import Now
from shared.machines import WorkspaceName

log = structlog.get_logger()


class Sweeper:
    """``interval`` in seconds."""

    def __init__(
        self,
        recovery: Recovery,
        providers: Mapping[str, MachineProvider],
        *,
        installation: str,
        interval: float,
        now: Now,
    ) -> None:
        self._recovery = recovery
        self._providers = providers
        self._installation = installation
        self._interval = interval
        self._now = now

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for name, provider in self._providers.items():
                try:
                    await self._sweep(provider)
                except ProviderError as error:
                    # Unknown is not "none": the next round asks again.
                    log.warning("sweep", provider=name, reason=str(error))
            await asyncio.sleep(self._interval)

    async def _sweep(self, provider: MachineProvider) -> None:
        for rental in await provider.inventory(f"{self._installation}-"):
            workspace = workspace_of(rental.label, self._installation)
            if workspace is None or workspace not in self._recovery.states:
                log.warning("machine of an unknown workspace", label=rental.label)
                continue
            if zombie(self._recovery.state(workspace), rental, self._now()) is not None:
                await self._look_again(provider, workspace, rental.provider_id)

    async def _look_again(
        self, provider: MachineProvider, workspace: WorkspaceName, provider_id: str
    ) -> None:
        """A listing may be older than what was done since: only a fresh answer counts."""
        rental = await provider.get(provider_id)
        if rental is None:
            return
        event = zombie(self._recovery.state(workspace), rental, self._now())
        if event is not None:
            await self._recovery.observe(event)
