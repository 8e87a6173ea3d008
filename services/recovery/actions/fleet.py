"""One look at the GPUs of many workspaces, shared by all who want it at the same time."""

import asyncio
from collections.abc import Sequence

from services.recovery.domain.brake import Brake, witnesses
from services.recovery.domain.state import State
from services.recovery.ports import Hosts, Sighting
from services.recovery.service import Recovery


class Fleet:
    """A thousand suspects at once cost one round of looks, not a thousand."""

    def __init__(self, recovery: Recovery, hosts: Hosts, brake: Brake) -> None:
        self._recovery = recovery
        self._hosts = hosts
        self.brake = brake
        self._round: asyncio.Task[Sequence[Sighting]] | None = None

    async def sightings(self) -> Sequence[Sighting]:
        """Of the witnesses there are; empty where they are too few to say anything."""
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._look())
        # Shielded: a suspect that is looked at no more does not end the round for the others.
        return await asyncio.shield(self._round)

    async def _look(self) -> Sequence[Sighting]:
        states = [folded.state for folded in self._recovery.states.values()]
        return await asyncio.gather(*map(self._one, witnesses(states, self.brake)))

    async def _one(self, state: State) -> Sighting:
        assert state.primary is not None
        return await self._hosts.look(state.primary, workspace=state.workspace, epoch=state.epoch)
