"""Hosts that are changed under a live term only.

An effect takes long: it looks, waits and looks again. A process that was stopped or cut off in
the middle of one wakes up at the next line of it, so the term is asked at each step that changes
a host, and not only where the effect begins.
"""

from collections.abc import Callable, Sequence

from services.recovery.ports import Copy, Hosts, Plan, Promotion, Sighting
from shared.machines import Host, WorkspaceName


class LeasedHosts:
    """Hosts over ``hosts``; ``may_act`` raises LeaseLostError when the term is over."""

    def __init__(self, hosts: Hosts, may_act: Callable[[], object]) -> None:
        self._hosts = hosts
        self._may_act = may_act

    async def answers(self, host: Host) -> bool:
        return await self._hosts.answers(host)

    async def locate(self, host: Host) -> Host:
        return await self._hosts.locate(host)

    async def look(self, host: Host, *, workspace: WorkspaceName, epoch: int) -> Sighting:
        return await self._hosts.look(host, workspace=workspace, epoch=epoch)

    async def prepare(self, host: Host, plan: Plan) -> None:
        self._may_act()
        await self._hosts.prepare(host, plan)

    async def copies(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int
    ) -> Sequence[Copy]:
        return await self._hosts.copies(standby, workspace=workspace, epoch=epoch)

    async def promote(
        self,
        standby: Host,
        *,
        workspace: WorkspaceName,
        epoch: int,
        serve: bool,
        generation: str = "",
    ) -> Promotion:
        self._may_act()
        return await self._hosts.promote(
            standby, workspace=workspace, epoch=epoch, serve=serve, generation=generation
        )

    async def freeze(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int, timeout: float
    ) -> None:
        self._may_act()
        await self._hosts.freeze(standby, workspace=workspace, epoch=epoch, timeout=timeout)

    async def thaw(self, standby: Host, *, workspace: WorkspaceName, epoch: int) -> None:
        self._may_act()
        await self._hosts.thaw(standby, workspace=workspace, epoch=epoch)
