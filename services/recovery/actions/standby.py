"""Getting a standby in service: creating or reviving the machine, preparing it, its epoch."""

import asyncio

from services.recovery.actions.tools import Outcomes, Tools, host_of, plan_for
from services.recovery.domain.effects import ProvisionStandby
from services.recovery.domain.state import State
from services.recovery.ports import (
    CredentialError,
    HostUnsuitableError,
    NoCapacityError,
    Order,
    OutcomeUnknownError,
    ProviderError,
    RentalStatus,
)
from shared.events.recovery import ProvisionFailed, StandbyProvisioned, StandbyRestored
from shared.machines import Host, Role


async def provision(at: Tools, state: State, effect: ProvisionStandby) -> Outcomes:
    """Create, adopt or revive the standby, prepare it and give it the epoch."""
    try:
        async with asyncio.timeout(state.policy.ssh_timeout):
            own = effect.own and await at.hosts.locate(effect.own)
            host = own or await _standby_machine(at, state, effect)
            await at.until_answers(host)
            await at.hosts.prepare(host, plan_for(state, Role.STANDBY, effect.epoch))
            promotion = await at.hosts.promote(
                host, workspace=state.workspace, epoch=effect.epoch, serve=effect.serve
            )
    except (TimeoutError, HostUnsuitableError, ProviderError) as error:
        if isinstance(error, OutcomeUnknownError):
            raise
        reason = str(error) or f"the standby did not answer in {state.policy.ssh_timeout:g} s"
        return (
            ProvisionFailed(
                workspace=state.workspace,
                epoch=effect.epoch,
                role=Role.STANDBY,
                attempt=effect.attempt,
                stage="credentials" if isinstance(error, CredentialError) else "prepare",
                reason=reason,
                hint=getattr(error, "hint", ""),
            ),
        )
    if effect.revive is not None:
        return (
            StandbyRestored(
                workspace=state.workspace,
                epoch=effect.epoch,
                host=host,
                generation=promotion.generation,
            ),
        )
    return (
        StandbyProvisioned(
            workspace=state.workspace,
            epoch=effect.epoch,
            attempt=effect.attempt,
            host=host,
            host_ca=at.host_ca(state.workspace),
        ),
    )


async def _standby_machine(at: Tools, state: State, effect: ProvisionStandby) -> Host:
    cloud = at.provider("gce")
    order = Order(
        label=effect.label,
        role=Role.STANDBY,
        policy=state.policy,
        bootstrap_public_key=at.bootstrap_public_key,
        retried=not at.recovery.intended_here(effect.label),
    )
    rental = await cloud.provision(order)
    while rental.status is not RentalStatus.RUNNING or rental.address is None:
        if rental.status is RentalStatus.STOPPED:
            await cloud.start(rental.provider_id)
        await asyncio.sleep(at.pace.poll)
        seen = await cloud.get(rental.provider_id)
        if seen is None:
            raise NoCapacityError(f"the standby {effect.label} vanished while it was starting")
        rental = seen
    return host_of(rental)
