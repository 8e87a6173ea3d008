"""What the work for one workspace must know of that for the others.

One look at many GPUs is shared by all who want it at the same time, and an offer that one is about
to rent is left to it: ten that were lost together would all take the cheapest, and nine fail.
"""

import asyncio
from collections.abc import Sequence

from services.recovery.domain.brake import Brake, witnesses
from services.recovery.domain.state import State, Step
from services.recovery.ports import Hosts, Sighting
from services.recovery.service import Recovery
from shared.machines import WorkspaceName


class Fleet:
    """A thousand suspects at once cost one round of looks, not a thousand."""

    def __init__(self, recovery: Recovery, hosts: Hosts, brake: Brake) -> None:
        self._recovery = recovery
        self._hosts = hosts
        self.brake = brake
        self._chosen: dict[WorkspaceName, str] = {}
        self._round: asyncio.Task[Sequence[Sighting]] | None = None

    async def sightings(self) -> Sequence[Sighting]:
        """Of the witnesses there are; empty where they are too few to say anything."""
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._look())
        # Shielded: a suspect that is looked at no more does not end the round for the others.
        return await asyncio.shield(self._round)

    def left_to_others(self, workspace: WorkspaceName) -> frozenset[str]:
        """The offers that other workspaces have chosen and not rented yet."""
        return frozenset(
            offer
            for other, folded in self._recovery.states.items()
            if other != workspace and (offer := self._choice(folded.state))
        )

    def _choice(self, state: State) -> str:
        if state.step is Step.PROVISIONING:
            return state.attempt.offer
        # Chosen a moment ago: it is in the log at once.
        return self._chosen.get(state.workspace, "") if state.step is Step.SEARCHING else ""

    def chosen(self, workspace: WorkspaceName, offer: str) -> None:
        """This workspace is about to rent this offer; empty when it looks for another."""
        self._chosen[workspace] = offer

    async def _look(self) -> Sequence[Sighting]:
        states = [folded.state for folded in self._recovery.states.values()]
        return await asyncio.gather(*map(self._one, witnesses(states, self.brake)))

    async def _one(self, state: State) -> Sighting:
        assert state.primary is not None
        return await self._hosts.look(state.primary, workspace=state.workspace, epoch=state.epoch)
