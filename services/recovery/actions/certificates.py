"""Renewing what a host in service would otherwise outlive."""

from dataclasses import replace
from datetime import timedelta

from services.recovery.actions.tools import Outcomes, Tools, plan_for
from services.recovery.domain.effects import RenewHost
from services.recovery.domain.state import State
from shared.events.recovery import HostRenewed
from shared.machines import Role


async def renew(at: Tools, state: State, effect: RenewHost) -> Outcomes:
    """Prepare a host again, which gives it a new host certificate and changes nothing else."""
    # In service a GPU is read from and nothing else, like one that was adopted.
    plan = replace(plan_for(state, effect.role, effect.epoch), adopted=effect.role is Role.GPU)
    await at.hosts.prepare(effect.host, plan)
    return (
        HostRenewed(
            workspace=state.workspace,
            epoch=effect.epoch,
            machine=effect.host.id,
            role=effect.role,
            renew_at=at.now() + timedelta(seconds=at.pace.renewal),
        ),
    )
