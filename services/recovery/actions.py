"""How each effect is carried out. Every action may run twice, and from its start, after a crash.

An action returns the events that say how it ended. Trouble that passes (HostUnreachableError,
OutcomeUnknownError, EndpointError) is raised, and the driver tries again; trouble that does not
is an event with a reason.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from services.recovery.domain import market
from services.recovery.domain.effects import (
    AwaitGpu,
    ConfirmDeath,
    Effect,
    Fence,
    FreezeStandby,
    PrepareAdopted,
    PromoteStandby,
    ProvisionStandby,
    RentGpu,
    SearchOffers,
    SwitchToGpu,
    ThawStandby,
    WatchCandidate,
)
from services.recovery.domain.state import Condemned, End, State
from services.recovery.domain.verdict import verdict
from services.recovery.keeper import Keeper
from services.recovery.ports import (
    Backend,
    CredentialError,
    Hosts,
    HostUnreachableError,
    HostUnsuitableError,
    MachineProvider,
    Market,
    NoCapacityError,
    Order,
    OutcomeUnknownError,
    Plan,
    ProviderError,
    Rental,
    RentalStatus,
    Sighting,
)
from services.recovery.service import Recovery
from shared.clock import Now
from shared.events import Event
from shared.events.recovery import (
    FailbackCompleted,
    FailoverCompleted,
    GpuProvisioned,
    GpuReady,
    OfferSelected,
    OrphanDestroyed,
    PrimaryFenced,
    ProvisionFailed,
    StandbyFrozen,
    StandbyProvisioned,
    StandbyRestored,
    StandbyThawed,
)
from shared.machines import Host, MachineId, Role, WorkspaceName

DEAD = {RentalStatus.STOPPED, RentalStatus.FAILED}
LOST_SIGHTINGS = 2
"""A host that the market shows as offline so many times in a row is lost, not blinking."""

Outcomes = Sequence[Event]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often to look, in seconds. ``settle``: how long an unanswered rental may show up."""

    poll: float = 3.0
    endpoint: float = 0.05
    endpoint_patience: float = 5.0
    settle: float = 60.0


class Actions:
    """One method per effect. ``providers`` maps ``vast``, ``gce`` to their adapters."""

    def __init__(
        self,
        recovery: Recovery,
        *,
        providers: Mapping[str, MachineProvider],
        gpu_market: Market | None,
        hosts: Hosts,
        keeper: Keeper,
        bootstrap_public_key: str,
        host_ca: Callable[[WorkspaceName], str],
        may_act: Callable[[], object],
        now: Now,
        pace: Pace,
    ) -> None:
        self._recovery = recovery
        self._providers = providers
        self._market = gpu_market
        self._hosts = hosts
        self._keeper = keeper
        self._bootstrap_public_key = bootstrap_public_key
        self._host_ca = host_ca
        self._may_act = may_act
        self._now = now
        self._pace = pace

    async def carry_out(self, workspace: WorkspaceName, effect: Effect) -> Outcomes:
        """Do it, under a live term only."""
        self._may_act()
        state = self._recovery.state(workspace)
        return await self._action(state, effect)

    def _action(self, state: State, effect: Effect) -> Awaitable[Outcomes]:  # noqa: C901
        match effect:
            case ProvisionStandby():
                return self._provision_standby(state, effect)
            case PrepareAdopted():
                return self._prepare_adopted(state, effect)
            case SearchOffers():
                return self._search(state, effect)
            case RentGpu():
                return self._rent(state, effect)
            case AwaitGpu():
                return self._await_gpu(state, effect)
            case WatchCandidate():
                return self._watch(state, effect)
            case ConfirmDeath():
                return self._confirm_death(state, effect)
            case PromoteStandby():
                return self._promote(state, effect)
            case FreezeStandby():
                return self._freeze(state, effect)
            case ThawStandby():
                return self._thaw(state, effect)
            case SwitchToGpu():
                return self._switch(state, effect)
            case Fence():
                return self._fence(state, effect)

    # --- the standby -------------------------------------------------------------------------

    async def _provision_standby(self, state: State, effect: ProvisionStandby) -> Outcomes:
        try:
            async with asyncio.timeout(state.policy.ssh_timeout):
                own = effect.own and await self._hosts.locate(effect.own)
                host = own or await self._standby_machine(state, effect)
                await self._until_answers(host)
                await self._hosts.prepare(host, self._plan(state, Role.STANDBY, effect.epoch))
                promotion = await self._hosts.promote(
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
                host_ca=self._host_ca(state.workspace),
            ),
        )

    async def _standby_machine(self, state: State, effect: ProvisionStandby) -> Host:
        cloud = self._provider("gce")
        order = Order(
            label=effect.label,
            role=Role.STANDBY,
            policy=state.policy,
            bootstrap_public_key=self._bootstrap_public_key,
            retried=not self._recovery.intended_here(effect.label),
        )
        rental = await cloud.provision(order)
        while rental.status is not RentalStatus.RUNNING or rental.address is None:
            if rental.status is RentalStatus.STOPPED:
                await cloud.start(rental.provider_id)
            await asyncio.sleep(self._pace.poll)
            seen = await cloud.get(rental.provider_id)
            if seen is None:
                raise NoCapacityError(f"the standby {effect.label} vanished while it was starting")
            rental = seen
        return _host(rental)

    # --- a GPU -------------------------------------------------------------------------------

    async def _prepare_adopted(self, state: State, effect: PrepareAdopted) -> Outcomes:
        host = await self._adopted(effect.host)
        await self._until_answers(host)
        plan = replace(self._plan(state, Role.GPU, effect.epoch), adopted=True)
        await self._hosts.prepare(host, plan)
        return (self._gpu_ready(state, effect.epoch, 0, host),)

    async def _adopted(self, host: Host) -> Host:
        """Where the adopted GPU is: by its name, or by what its provider says."""
        if host.provider == "ssh":
            return await self._hosts.locate(host)
        rental = await self._provider(host.provider).get(host.provider_id)
        if rental is None or not rental.address:
            raise HostUnreachableError(f"{host.provider} {host.provider_id} has no address now")
        return replace(_host(rental), id=host.id)

    async def _search(self, state: State, effect: SearchOffers) -> Outcomes:
        def failed(stage: str, reason: str, hint: str = "") -> Outcomes:
            return (self._gpu_failed(state, effect, stage, reason, hint=hint),)

        if self._market is None:
            return failed(
                "credentials",
                "no market is configured",
                "set DUMONT_VAST_API_KEY for the recovery service, then: dumont recover NAME",
            )
        try:
            offers = await self._market.search(state.policy)
        except CredentialError as error:
            return failed("credentials", str(error), error.hint)
        except ProviderError as error:
            return failed("search", f"the market did not answer: {error}", error.hint)
        choice = market.choose(offers, state.policy, state.excluded)
        if choice is None:
            return failed(
                "search", f"none of {len(offers)} offers fits the policy", "relax the policy"
            )
        offer = choice.offer
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

    async def _rent(self, state: State, effect: RentGpu) -> Outcomes:
        order = Order(
            label=effect.label,
            role=Role.GPU,
            policy=state.policy,
            bootstrap_public_key=self._bootstrap_public_key,
            offer=effect.offer,
            bid=effect.bid,
            retried=not self._recovery.intended_here(effect.label),
        )
        try:
            rental = await self._provider("vast").provision(order)
        except OutcomeUnknownError:
            raise
        except ProviderError as error:
            stage = "credentials" if isinstance(error, CredentialError) else "rent"
            return (self._gpu_failed(state, effect, stage, str(error), hint=error.hint),)
        deadline = self._now() + timedelta(seconds=state.policy.ssh_timeout)
        return (
            GpuProvisioned(
                workspace=state.workspace,
                epoch=effect.epoch,
                attempt=effect.attempt,
                host=_host(rental),
                ssh_deadline=deadline,
            ),
        )

    async def _await_gpu(self, state: State, effect: AwaitGpu) -> Outcomes:
        vast = self._provider(effect.host.provider)
        while True:
            rental = await vast.get(effect.host.provider_id)
            if rental is None or rental.status in DEAD | {RentalStatus.LOST}:
                return (self._gpu_failed(state, effect, "lost", _fate(rental)),)
            if rental.status is RentalStatus.RUNNING and rental.address and rental.port:
                host = _host(rental)
                if await self._hosts.answers(host):
                    return (await self._prepare_gpu(state, effect, host),)
            await asyncio.sleep(self._pace.poll)

    async def _prepare_gpu(self, state: State, effect: AwaitGpu, host: Host) -> Event:
        try:
            await self._hosts.prepare(host, self._plan(state, Role.GPU, effect.epoch))
        except HostUnsuitableError as error:
            return self._gpu_failed(state, effect, "prepare", str(error), hint=error.hint)
        return self._gpu_ready(state, effect.epoch, effect.attempt, host)

    async def _watch(self, state: State, effect: WatchCandidate) -> Outcomes:
        vast = self._provider(effect.host.provider)
        lost = 0
        while True:
            await asyncio.sleep(self._pace.poll)
            rental = await vast.get(effect.host.provider_id)
            lost = lost + 1 if rental and rental.status is RentalStatus.LOST else 0
            if rental is None or rental.status in DEAD or lost >= LOST_SIGHTINGS:
                return (self._gpu_failed(state, effect, "lost", _fate(rental)),)

    # --- failover ----------------------------------------------------------------------------

    async def _confirm_death(self, state: State, effect: ConfirmDeath) -> Outcomes:
        host = effect.host
        sighting, (rental, silent) = await asyncio.gather(
            self._hosts.look(host, workspace=state.workspace, epoch=effect.epoch),
            self._provider_view(host, state),
        )
        event = verdict(
            state,
            effect,
            sighting=sighting,
            rental=rental,
            provider_silent=silent,
            now=self._now(),
        )
        return (event,)

    async def _provider_view(self, host: Host, state: State) -> tuple[Rental | None, str]:
        """What the provider shows, or why it could not be asked.

        A host of the user's own has no provider: the standby is the witness that it is not our
        own network that is down.
        """
        if host.provider == "ssh":
            assert state.standby.host is not None
            standby = await self._hosts.look(
                state.standby.host, workspace=state.workspace, epoch=state.epoch
            )
            heard = standby is Sighting.ANSWERS
            return None, "" if heard else "the standby does not answer us either"
        try:
            return await self._provider(host.provider).get(host.provider_id), ""
        except ProviderError as error:
            return None, f"{host.provider} could not be asked: {error}"

    async def _promote(self, state: State, effect: PromoteStandby) -> Outcomes:
        began = self._now()
        # Nobody may write to the old primary while the standby takes over.
        await self._keeper.point(state.endpoint_port, None)
        promotion = await self._hosts.promote(
            effect.host, workspace=state.workspace, epoch=effect.epoch, serve=True
        )
        await self._lead_to(state, effect.host, effect.epoch)
        return (
            FailoverCompleted(
                workspace=state.workspace,
                epoch=effect.epoch,
                standby=effect.host.id,
                generation=promotion.generation,
                seconds=(self._now() - began).total_seconds(),
                generation_age_seconds=promotion.age_seconds,
            ),
        )

    async def _lead_to(self, state: State, host: Host, epoch: int) -> None:
        """Point the endpoint at ``host`` and see it through the endpoint."""
        backend = Backend(address=host.address, port=host.port)
        await self._keeper.point(state.endpoint_port, backend)
        try:
            async with asyncio.timeout(self._pace.endpoint_patience):
                while not await self._keeper.sees(state.endpoint_port, host, state, epoch):
                    await asyncio.sleep(self._pace.endpoint)
        except TimeoutError:
            reason = f"{host.id} does not answer through the endpoint yet"
            raise HostUnreachableError(reason) from None

    # --- failback ----------------------------------------------------------------------------

    async def _freeze(self, state: State, effect: FreezeStandby) -> Outcomes:
        await self._keeper.point(state.endpoint_port, None)
        closed_at = self._now()
        await self._hosts.freeze(
            effect.host, workspace=state.workspace, epoch=effect.epoch, timeout=effect.timeout
        )
        return (
            StandbyFrozen(
                workspace=state.workspace,
                epoch=effect.epoch,
                attempt=effect.attempt,
                frozen_at=closed_at,
            ),
        )

    async def _thaw(self, state: State, effect: ThawStandby) -> Outcomes:
        await self._hosts.thaw(effect.host, workspace=state.workspace, epoch=effect.epoch)
        return (
            StandbyThawed(workspace=state.workspace, epoch=effect.epoch, attempt=effect.attempt),
        )

    async def _switch(self, state: State, effect: SwitchToGpu) -> Outcomes:
        # The standby's epoch goes first: from here on it takes no orders of the old one.
        await self._hosts.promote(
            effect.standby, workspace=state.workspace, epoch=effect.epoch, serve=False
        )
        await self._lead_to(state, effect.host, effect.epoch)
        now = self._now()
        frozen_at = state.attempt.frozen_at or now
        return (
            FailbackCompleted(
                workspace=state.workspace,
                epoch=effect.epoch,
                machine=effect.host.id,
                pause_seconds=(now - frozen_at).total_seconds(),
                completed_at=now,
            ),
        )

    # --- fencing -----------------------------------------------------------------------------

    async def _fence(self, state: State, effect: Fence) -> Outcomes:
        condemned = effect.condemned
        provider = self._provider(condemned.provider)
        if condemned.end is End.STOP:
            while not await provider.stop(condemned.provider_id):
                await asyncio.sleep(self._pace.poll)
            return (self._fenced(state, condemned, condemned.provider_id, "stopped"),)
        if condemned.provider_id:
            await self._destroy(provider, condemned.provider_id)
            return (self._fenced(state, condemned, condemned.provider_id, "destroyed"),)
        # Only the label is known: the rental whose answer never came may still show up.
        until = self._now() + timedelta(seconds=self._pace.settle)
        while True:
            for rental in await provider.find(condemned.machine):
                await self._destroy(provider, rental.provider_id)
            if self._now() >= until:
                return (self._fenced(state, condemned, "", "destroyed"),)
            await asyncio.sleep(self._pace.poll)

    async def _destroy(self, provider: MachineProvider, provider_id: str) -> None:
        while not await provider.destroy(provider_id):
            await asyncio.sleep(self._pace.poll)
            self._may_act()

    def _fenced(self, state: State, condemned: Condemned, provider_id: str, how: str) -> Event:
        if condemned.orphan:
            return OrphanDestroyed(
                workspace=state.workspace,
                epoch=state.epoch,
                machine=condemned.machine,
                provider_id=provider_id,
                reason=condemned.reason,
            )
        return PrimaryFenced(
            workspace=state.workspace,
            epoch=state.epoch,
            machine=condemned.machine,
            provider_id=provider_id,
            how=how,
        )

    # --- shared by several ---------------------------------------------------------------------

    def _provider(self, name: str) -> MachineProvider:
        try:
            return self._providers[name]
        except KeyError:
            raise CredentialError(
                f"the provider {name} is not configured",
                "set its address and key for the recovery service",
            ) from None

    async def _until_answers(self, host: Host) -> None:
        while not await self._hosts.answers(host):
            await asyncio.sleep(self._pace.poll)

    def _plan(self, state: State, role: Role, epoch: int) -> Plan:
        return Plan(
            workspace=state.workspace,
            role=role,
            path=state.path,
            epoch=epoch,
            policy=state.policy,
        )

    def _gpu_ready(self, state: State, epoch: int, attempt: int, host: Host) -> Event:
        seconds = state.policy.restore_deadline(state.generation_bytes)
        return GpuReady(
            workspace=state.workspace,
            epoch=epoch,
            attempt=attempt,
            host=host,
            restore_deadline=self._now() + timedelta(seconds=seconds),
            host_ca=self._host_ca(state.workspace),
        )

    def _gpu_failed(
        self,
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


def _host(rental: Rental) -> Host:
    return Host(
        id=MachineId(rental.label),
        provider=rental.provider,
        provider_id=rental.provider_id,
        address=rental.address or "",
        port=rental.port or 0,
        price_per_hour=rental.price_per_hour,
        description=rental.description,
    )


def _fate(rental: Rental | None) -> str:
    if rental is None:
        return "the market says that the machine is gone"
    return f"the market shows the machine as {rental.status}: {rental.status_text or 'no reason'}"
