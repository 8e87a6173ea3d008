"""Keeps every endpoint where the log says it belongs, and switches it on demand.

Level-triggered: what HAProxy says is compared with the state each second, so one that was
restarted serves nobody until told.
"""

import asyncio
from collections.abc import Callable

import structlog

from services.recovery.domain.obligations import Leave, endpoint
from services.recovery.domain.state import State
from services.recovery.ports import Backend, Endpoint, EndpointError
from services.recovery.service import Recovery
from shared.machines import Host
from shared.patience import Waits

LOAD_BALANCER = "the load balancer"

log = structlog.get_logger()


class Keeper:
    """The one hand on the endpoint. ``interval`` in seconds; ``may_act`` raises without a lease."""

    def __init__(
        self,
        recovery: Recovery,
        driver: Endpoint,
        *,
        interval: float,
        may_act: Callable[[], object],
        waits: Waits | None = None,
    ) -> None:
        self._recovery = recovery
        self._endpoint = driver
        self._interval = interval
        self._may_act = may_act
        self._changed = recovery.changes()
        self._one_hand = asyncio.Lock()
        self._patience = (waits or Waits()).patience(LOAD_BALANCER)

    async def point(self, port: int, backend: Backend | None) -> None:
        """Switch one port now. Raises EndpointError."""
        async with self._one_hand:
            self._may_act()
            await self._endpoint.point(port, backend)

    async def sees(self, port: int, host: Host, state: State, epoch: int) -> bool:
        """Whether ``host`` is what answers through the endpoint, under its workspace's name."""
        seen = await self._endpoint.seen(port, workspace=state.workspace, epoch=epoch)
        return seen == host.id

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            try:
                await self.settle()
                self._patience.over()
            except EndpointError as error:
                # No growing pause here: people are cut off until it is pointed again.
                self._patience.say(str(error))
            await self._changed.comes(self._interval)

    async def settle(self) -> None:
        """Set whatever differs from the state. Raises EndpointError."""
        async with self._one_hand:
            leads = await self._endpoint.read()
            for port, backend in leads.items():
                # Asked for each port anew: the state may have moved on meanwhile.
                wanted = self._wanted(port)
                if wanted is Leave.ALONE or wanted == backend:
                    continue
                log.info("endpoint", port=port, leads_to=str(wanted), was=str(backend))
                try:
                    self._may_act()
                    await self._endpoint.point(port, wanted)
                except EndpointError as error:
                    # One that cannot be pointed does not hold up the others.
                    log.warning("endpoint", port=port, reason=str(error))

    def _wanted(self, port: int) -> Backend | Leave | None:
        for folded in self._recovery.states.values():
            if folded.state.endpoint_port == port:
                wanted = endpoint(folded.state)
                if wanted is not None:
                    return wanted
        return None
