"""Getting a GPU: search, rent, wait until it answers, watch it until it serves."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from services.recovery.actions.tools import LOST_SIGHTINGS, Outcomes, Tools, host_of, plan_for
from services.recovery.domain import market
from services.recovery.domain.effects import (
    AwaitGpu,
    PrepareAdopted,
    RentGpu,
    SearchOffers,
    WatchCandidate,
)
from services.recovery.domain.labels import family_of
from services.recovery.domain.mortality import halt_without_both
from services.recovery.domain.state import State
from services.recovery.domain.sweep import ALIVE, zombie
from services.recovery.domain.world import DEAD
from services.recovery.ports import (
    CredentialError,
    HostUnreachableError,
    HostUnsuitableError,
    MachineLimitError,
    MachineProvider,
    Order,
    OutcomeUnknownError,
    ProviderError,
    Rental,
    RentalStatus,
)
from shared.events import Event
from shared.events.recovery import GpuProvisioned, GpuReady, OfferSelected, ProvisionFailed
from shared.machines import Host, Role, WorkspaceName


async def prepare_adopted(at: Tools, state: State, effect: PrepareAdopted) -> Outcomes:
    """Install the gate on a GPU that holds the data already; nothing else there is touched."""
    host = await _adopted(at, effect.host)
    if host is None:
        return (halt_without_both(state),)
    try:
        async with asyncio.timeout(state.policy.ssh_timeout):
            await at.until_answers(host)
    except TimeoutError:
        raise HostUnreachableError(
            f"the GPU at {host.address} port {host.port} does not let our key in",
            "it must accept root with the key that 'dumont workspace add' showed",
        ) from None
    plan = replace(plan_for(state, Role.GPU, effect.epoch), adopted=True)
    await at.hosts.prepare(host, plan)
    return (_gpu_ready(at, state, effect.epoch, 0, host),)


async def _adopted(at: Tools, host: Host) -> Host | None:
    """Where the adopted GPU is: by its name, or by what its provider says. None: nowhere."""
    if host.provider == "ssh":
        return await at.hosts.locate(host)
    rental = await at.provider(host.provider).get(host.provider_id)
    if rental is None:
        return None
    if not rental.address:
        raise HostUnreachableError(f"{host.provider} {host.provider_id} has no address now")
    return replace(host_of(rental), id=host.id)


async def search(at: Tools, state: State, effect: SearchOffers) -> Outcomes:
    """Ask the market and choose."""

    def failed(stage: str, reason: str, hint: str = "") -> Outcomes:
        return (_gpu_failed(at, state, effect, stage, reason, hint=hint),)

    if at.market is None:
        return failed(
            "credentials",
            "no market is configured",
            "set DUMONT_VAST_API_KEY for the recovery service, then: dumont recover NAME",
        )
    at.fleet.chosen(state.workspace, "")
    try:
        offers = await at.market.search(state.policy)
    except CredentialError as error:
        return failed("credentials", str(error), error.hint)
    except ProviderError as error:
        return failed("search", f"the market did not answer: {error}", error.hint)
    others = at.fleet.left_to_others(state.workspace)
    free = [offer for offer in offers if offer.id not in others]
    choice = market.choose(free, state.policy, state.excluded)
    if choice is None:
        return failed("search", f"none of {len(free)} offers fits the policy", "relax the policy")
    offer = choice.offer
    at.fleet.chosen(state.workspace, offer.id)
    return (
        OfferSelected(
            workspace=state.workspace,
            epoch=effect.epoch,
            attempt=effect.attempt,
            offer=offer.id,
            market_machine=offer.market_machine,
            price_per_hour=offer.price_per_hour,
            bid=choice.bid,
            description=f"{offer.gpu_name}, {offer.country}",
            offers_seen=choice.seen,
            why=choice.why,
        ),
    )


async def rent(at: Tools, state: State, effect: RentGpu) -> Outcomes:
    """Rent under the label, or adopt what carries it."""
    order = Order(
        label=effect.label,
        role=Role.GPU,
        policy=state.policy,
        bootstrap_public_key=at.bootstrap_public_key,
        offer=effect.offer,
        bid=effect.bid,
        retried=not at.recovery.intended_here(effect.label),
    )
    try:
        vast = at.provider("vast")
        await _alone(at, vast, state.workspace, effect)
        rental = await vast.provision(order)
    except (OutcomeUnknownError, MachineLimitError):
        raise
    except ProviderError as error:
        stage = "credentials" if isinstance(error, CredentialError) else "rent"
        return (_gpu_failed(at, state, effect, stage, str(error), hint=error.hint),)
    deadline = at.now() + timedelta(seconds=state.policy.ssh_timeout)
    return (
        GpuProvisioned(
            workspace=state.workspace,
            epoch=effect.epoch,
            attempt=effect.attempt,
            host=host_of(rental),
            ssh_deadline=deadline,
            rented_at=at.now(),
        ),
    )


async def _alone(
    at: Tools, vast: MachineProvider, workspace: WorkspaceName, effect: RentGpu
) -> None:
    """Whatever we believe: the provider shows no other GPU of this workspace running.

    Raises MachineLimitError while it shows one; what has no place is owed its end from here on.
    """
    family = family_of(effect.label)
    for rental in await vast.inventory(family):
        sibling = family_of(rental.label) == family and rental.label != effect.label
        if not sibling or rental.status not in ALIVE:
            continue
        if event := zombie(at.recovery.state(workspace), rental, at.now()):
            await at.recovery.observe(event)
        raise MachineLimitError(f"{rental.label} still runs: nothing is rented beside it")


async def await_ready(at: Tools, state: State, effect: AwaitGpu) -> Outcomes:
    """Wait until the rented GPU answers, then prepare it. Ends by its deadline in the state."""
    vast = at.provider(effect.host.provider)
    while True:
        rental = await vast.get(effect.host.provider_id)
        if rental is None or rental.status in DEAD | {RentalStatus.LOST}:
            return (_gpu_failed(at, state, effect, "lost", _fate(rental)),)
        if rental.status is RentalStatus.RUNNING and rental.address and rental.port:
            host = host_of(rental)
            if await at.hosts.answers(host):
                return (await _prepare_gpu(at, state, effect, host),)
        await asyncio.sleep(at.pace.poll)


async def _prepare_gpu(at: Tools, state: State, effect: AwaitGpu, host: Host) -> Event:
    try:
        await at.hosts.prepare(host, plan_for(state, Role.GPU, effect.epoch))
    except HostUnsuitableError as error:
        return _gpu_failed(at, state, effect, "prepare", str(error), hint=error.hint)
    return _gpu_ready(at, state, effect.epoch, effect.attempt, host)


async def watch(at: Tools, state: State, effect: WatchCandidate) -> Outcomes:
    """Ends only when the market took the GPU before it served."""
    vast = at.provider(effect.host.provider)
    lost = 0
    while True:
        await asyncio.sleep(at.pace.poll)
        rental = await vast.get(effect.host.provider_id)
        lost = lost + 1 if rental and rental.status is RentalStatus.LOST else 0
        if rental is None or rental.status in DEAD or lost >= LOST_SIGHTINGS:
            return (_gpu_failed(at, state, effect, "lost", _fate(rental)),)


def _gpu_ready(at: Tools, state: State, epoch: int, attempt: int, host: Host) -> Event:
    seconds = state.policy.restore_deadline(state.generation_bytes)
    return GpuReady(
        workspace=state.workspace,
        epoch=epoch,
        attempt=attempt,
        host=host,
        restore_deadline=at.now() + timedelta(seconds=seconds),
        host_ca=at.host_ca(state.workspace),
        renew_at=at.now() + timedelta(seconds=at.pace.renewal),
    )


def _gpu_failed(
    at: Tools,
    state: State,
    effect: SearchOffers | RentGpu | AwaitGpu | WatchCandidate,
    stage: str,
    reason: str,
    *,
    hint: str = "",
) -> Event:
    return ProvisionFailed(
        workspace=state.workspace,
        epoch=effect.epoch,
        role=Role.GPU,
        attempt=effect.attempt,
        stage=stage,
        reason=reason,
        hint=hint,
        market_machine=state.attempt.market_machine,
    )


def _fate(rental: Rental | None) -> str:
    if rental is None:
        return "the market says that the machine is gone"
    return f"the market shows the machine as {rental.status}: {rental.status_text or 'no reason'}"
