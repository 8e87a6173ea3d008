"""Looks through the providers' accounts for machines of ours that must not be.

Nobody waits for another here: a provider that does not answer holds up none of the others, and a
machine that it is slow to show holds up neither the other machines nor the next listing.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from services.recovery.domain.labels import workspace_of
from services.recovery.domain.sweep import zombie
from services.recovery.ports import MachineProvider, ProviderError, Rental
from services.recovery.service import Recovery
from shared.clock import Now
from shared.machines import WorkspaceName

LOOKS_AT_ONCE = 4
"""So many machines of one account are looked at together: its provider limits the calls."""

log = structlog.get_logger()


class Sweeper:
    """``interval``: seconds from the end of one listing to the next of the same account."""

    def __init__(
        self,
        recovery: Recovery,
        providers: Mapping[str, MachineProvider],
        *,
        installation: str,
        interval: float,
        now: Now,
    ) -> None:
        self._interval = interval
        self._accounts = [
            _Account(recovery, name, provider, installation, now)
            for name, provider in providers.items()
        ]

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for account in self._accounts:
                group.create_task(account.watch(self._interval))


@dataclass(slots=True)
class _Account:
    """What one provider holds for us."""

    recovery: Recovery
    name: str
    provider: MachineProvider
    installation: str
    now: Now
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKS_AT_ONCE))

    async def watch(self, interval: float) -> None:
        """Until cancelled. What is being looked at is not looked at once more."""
        looks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                looks = {key: look for key, look in looks.items() if not look.done()}
                for workspace, rental in await self._suspects():
                    key = rental.provider_id
                    if key not in looks:
                        looks[key] = group.create_task(self._look_again(workspace, key))
                await asyncio.sleep(interval)

    async def _suspects(self) -> list[tuple[WorkspaceName, Rental]]:
        """Machines that the account lists and that may have no place, with whose they would be."""
        try:
            listed = await self.provider.inventory(f"{self.installation}-")
        except ProviderError as error:
            self._unknown(error)
            return []
        suspects = []
        for rental in listed:
            workspace = workspace_of(rental.label, self.installation)
            if workspace is None or workspace not in self.recovery.states:
                log.warning("machine of an unknown workspace", label=rental.label)
            elif zombie(self.recovery.state(workspace), rental, self.now()) is not None:
                suspects.append((workspace, rental))
        return suspects

    async def _look_again(self, workspace: WorkspaceName, provider_id: str) -> None:
        """A listing may be older than what was done since: only a fresh answer counts."""
        try:
            async with self.room:
                rental = await self.provider.get(provider_id)
        except ProviderError as error:
            self._unknown(error)
            return
        if rental is None:
            return
        event = zombie(self.recovery.state(workspace), rental, self.now())
        if event is not None:
            await self.recovery.observe(event)

    def _unknown(self, error: ProviderError) -> None:
        """Unknown is not "none": the next round asks again."""
        log.warning("sweep", provider=self.name, reason=str(error))
