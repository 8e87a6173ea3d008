"""Renews what a host in service would otherwise outlive: its host certificate.

A host certificate of a GPU lives a day. Preparing a host again is idempotent and gives it a new
one; it is done only while nothing else is going on, so that no freeze is undone by it.
"""

import asyncio
from collections.abc import Callable

import structlog

from services.recovery.domain.state import Phase, State
from services.recovery.ports import HostError, Hosts, Plan
from services.recovery.service import Recovery
from shared.machines import Host, Role

FIRST_AFTER = 600.0
CALM = {Phase.SEEDING, Phase.SYNCING}

log = structlog.get_logger()


class Renewer:
    """``interval`` in seconds: several of them fit into the life of a host certificate."""

    def __init__(
        self,
        recovery: Recovery,
        hosts: Hosts,
        *,
        interval: float,
        may_act: Callable[[], object],
    ) -> None:
        self._recovery = recovery
        self._hosts = hosts
        self._interval = interval
        self._may_act = may_act

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.sleep(min(FIRST_AFTER, self._interval))
        while True:
            for workspace in list(self._recovery.states):
                for host, plan in due(self._recovery.state(workspace)):
                    await self._renew(host, plan)
            await asyncio.sleep(self._interval)

    async def _renew(self, host: Host, plan: Plan) -> None:
        self._may_act()
        try:
            await self._hosts.prepare(host, plan)
        except HostError as error:
            log.error("host certificate not renewed", machine=host.id, reason=str(error))


def due(state: State) -> list[tuple[Host, Plan]]:
    """The hosts in service, each with the plan that fits what it is now."""
    if state.phase not in CALM:
        return []
    plans = []
    if state.standby.host is not None and not state.standby.lost:
        plans.append((state.standby.host, _plan(state, Role.STANDBY)))
    if state.primary is not None and state.primary_ready:
        plans.append((state.primary, _plan(state, Role.GPU)))
    return plans


def _plan(state: State, role: Role) -> Plan:
    return Plan(
        workspace=state.workspace,
        role=role,
        path=state.path,
        epoch=state.epoch,
        policy=state.policy,
        # In service a GPU is read from and nothing else, like one that was adopted.
        adopted=role is Role.GPU,
    )
