"""GPUs from Vast: one machine for each label, whatever gets lost on the way.

Vast has no idempotency key, shows new machines late, and takes calls whose answers never arrive.
So the label decides: it is looked for first, and an empty list is not believed for ``grace``
seconds after a create whose outcome is unknown.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from services.recovery.domain.market import countries, within_limits
from services.recovery.ports import (
    CredentialError,
    NoCapacityError,
    Offer,
    OfferGoneError,
    Order,
    OutcomeUnknownError,
    ProviderError,
    Rental,
    RentalStatus,
)
from shared import failpoints
from shared.clouds.errors import (
    AuthError,
    CloudError,
    NoCapacityNowError,
    NoSuchAskError,
    NotFoundError,
    RateLimitedError,
    UncertainError,
)
from shared.clouds.port import Vast
from shared.clouds.vast_answers import Ask, Instance
from shared.machines import MachineId
from shared.policy import Policy

T = TypeVar("T")

GRACE = 30.0
SEARCH_ROWS = 16  # the account may be shown 20 000 rows a day
ENOUGH_OFFERS = 5
GB_IN_MB = 1000  # as Vast's own client converts; a 24 GB card shows 24 564 MB
ONSTART = (
    "touch ~/.no_auto_tmux; "
    "if ! [ -x /usr/bin/rsync ] || ! [ -x /usr/bin/python3 ]; then "
    "apt-get -q update && apt-get -qy install --no-install-recommends rsync python3; fi"
)
"""What every image must have for a restore: most do, and then this changes nothing."""


class VastProvider:
    """MachineProvider over one Vast account. One provision of a label at a time.

    ``grace``: seconds for which the list may lack a machine that was created.
    """

    name = "vast"

    def __init__(
        self,
        client: Vast,
        *,
        grace: float = GRACE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._grace = grace
        self._monotonic = monotonic
        self._unsettled: dict[MachineId, float] = {}  # label -> until when "none" is not believed
        self._settled: set[MachineId] = set()  # labels whose history this process knows
        self._rented: dict[str, Rental] = {}  # created by us, not seen in any answer yet
        self._rented_at: dict[str, float] = {}
        self._seen: set[str] = set()
        self._missing_since: dict[str, float] = {}
        self._keys: set[str] = set()

    async def provision(self, order: Order) -> Rental:
        if found := await self.find(order.label):
            return await self._keep_one(found)
        self._refuse_while_unsettled(order)
        await self._register_key(order.bootstrap_public_key)
        return await self._create(order)

    async def get(self, provider_id: str) -> Rental | None:
        row = await _typed(self._client.instance(_number(provider_id)))
        if row is not None:
            return self._rental(row)
        if provider_id in self._seen and not self._is_new(provider_id):
            return None
        return self._not_shown_yet(provider_id)

    def _is_new(self, provider_id: str) -> bool:
        """A machine may be in the list already and still be null by itself."""
        rented_at = self._rented_at.get(provider_id)
        return rented_at is not None and self._monotonic() < rented_at + self._grace

    async def find(self, label: MachineId) -> tuple[Rental, ...]:
        return tuple(rental for rental in await self.inventory(label) if rental.label == label)

    async def inventory(self, prefix: str) -> tuple[Rental, ...]:
        rows = await _typed(self._client.instances())
        return tuple(self._rental(row) for row in rows if row.label.startswith(prefix))

    async def start(self, provider_id: str) -> None:
        number = _number(provider_id)
        try:
            await self._client.start(number)
        except NoCapacityNowError as queued:
            # Vast keeps the wish and would start, and bill, hours later.
            await _typed(self._client.stop(number))
            raise NoCapacityError("vast has no free GPU on that machine now") from queued
        except CloudError as error:
            raise _provider_error(error) from error

    async def stop(self, provider_id: str) -> bool:
        number = _number(provider_id)
        try:
            await self._client.stop(number)
        except NotFoundError:
            return True
        except CloudError as error:
            raise _provider_error(error) from error
        row = await _typed(self._client.instance(number))
        return row is None or row.stopped_for_good

    async def destroy(self, provider_id: str) -> bool:
        number = _number(provider_id)
        self._rented_at.pop(provider_id, None)  # from here on "none" is what we want to see
        try:
            await self._client.destroy(number)
        except NotFoundError:
            return True
        except CloudError as error:
            raise _provider_error(error) from error
        failpoints.reach("call.after", "vast.destroy")
        return await _typed(self._client.instance(number)) is None

    # --- renting once -------------------------------------------------------------------

    async def _keep_one(self, found: Sequence[Rental]) -> Rental:
        """Of several machines with one label the oldest stays; the others end."""
        keeper, *others = sorted(found, key=lambda rental: int(rental.provider_id))
        for other in others:
            await self.destroy(other.provider_id)
        self._settle(keeper.label)
        return keeper

    def _refuse_while_unsettled(self, order: Order) -> None:
        label, now = order.label, self._monotonic()
        if order.retried and label not in self._settled:
            self._unsettled.setdefault(label, now + self._grace)
        until = self._unsettled.get(label, now)
        if until > now:
            raise OutcomeUnknownError(
                f"vast may have rented {label} already and shows nothing yet; "
                f"not renting again for {until - now:.0f} s"
            )
        self._settle(label)

    def _settle(self, label: MachineId) -> None:
        self._unsettled.pop(label, None)
        self._settled.add(label)

    async def _create(self, order: Order) -> Rental:
        label = order.label
        self._unsettled[label] = self._monotonic() + self._grace  # also if we are cancelled
        try:
            failpoints.reach("call.before", "vast.create")
            number = await self._client.create(
                _number(order.offer),
                label=label,
                image=order.policy.gpu_image,
                disk_gb=order.policy.gpu_disk_gb,
                bid=order.bid or None,
                onstart=ONSTART,
            )
        except CloudError as error:
            await self._end_what_a_refusal_left(error)
            if not isinstance(error, UncertainError):
                self._settle(label)
            raise _provider_error(error) from error
        failpoints.reach("call.after", "vast.create")
        rental = Rental(
            label=label,
            provider=self.name,
            provider_id=str(number),
            status=RentalStatus.BOOTING,
            address=None,
            port=None,
            price_per_hour=order.bid,
            status_text="rented",
        )
        self._rented[rental.provider_id] = rental
        self._rented_at[rental.provider_id] = self._monotonic()
        self._missing_since[rental.provider_id] = self._monotonic()
        return rental

    async def _end_what_a_refusal_left(self, error: CloudError) -> None:
        if error.created is None:
            return
        try:
            await self._client.destroy(_number(error.created))
        except NotFoundError:
            return
        except CloudError as trouble:
            raise OutcomeUnknownError(
                f"vast refused the rental but left machine {error.created} behind, "
                f"and did not destroy it: {trouble}"
            ) from trouble

    async def _register_key(self, public_key: str) -> None:
        """Vast copies the account's keys into a machine when it is created, not later."""
        wanted = _key_body(public_key)
        if wanted in self._keys:
            return
        self._keys = {_key_body(key) for key in await _typed(self._client.ssh_keys())}
        if wanted not in self._keys:
            await _typed(self._client.add_ssh_key(public_key))
            self._keys.add(wanted)

    # --- reading ------------------------------------------------------------------------

    def _not_shown_yet(self, provider_id: str) -> Rental | None:
        """Vast says "none" of a machine that this process never saw: believe it after a while."""
        now = self._monotonic()
        since = self._missing_since.setdefault(provider_id, now)
        if now - since >= self._grace:
            return None
        if rented := self._rented.get(provider_id):
            return rented
        raise ProviderError(
            f"vast does not show machine {provider_id}; new ones appear late, "
            f"so it counts as gone only in {self._grace - (now - since):.0f} s"
        )

    def _rental(self, row: Instance) -> Rental:
        provider_id = str(row.id)
        self._seen.add(provider_id)
        if not self._is_new(provider_id):
            self._rented.pop(provider_id, None)
        self._missing_since.pop(provider_id, None)
        said, address = row.said, row.ssh_address
        return Rental(
            label=MachineId(row.label),
            provider=self.name,
            provider_id=provider_id,
            status=RentalStatus(said.state.value),
            address=address[0] if address else None,
            port=address[1] if address else None,
            price_per_hour=row.dph_total or 0.0,
            description=_description(row),
            status_text=said.text,
            market_machine=str(row.machine_id or ""),
        )


class VastMarket:
    """Market over one Vast account: interruptible offers."""

    def __init__(self, client: Vast) -> None:
        self._client = client

    async def search(self, policy: Policy) -> Sequence[Offer]:
        preferred = sorted(countries(policy.regions))
        asks: list[Ask] = []
        if preferred:
            asks += await self._rows(policy, preferred)
        if not preferred or (len(asks) < ENOUGH_OFFERS and not policy.regions_strict):
            asks += await self._rows(policy, [])
        offers = {ask.id: _offer(ask) for ask in asks if _takeable(ask, policy)}
        return [offer for offer in offers.values() if within_limits(offer, policy) is None]

    async def _rows(self, policy: Policy, only_countries: Sequence[str]) -> list[Ask]:
        filters: dict[str, dict[str, object]] = {
            "verified": {"eq": True},
            "external": {"eq": False},
            "rentable": {"eq": True},
            "gpu_ram": {"gte": policy.gpu_ram_min_gb * GB_IN_MB},
            "disk_space": {"gte": policy.gpu_disk_gb},
            "dph_total": {"lte": policy.gpu_price_max},
            "direct_port_count": {"gte": 1},
        }
        if only_countries:
            filters["geolocation"] = {"in": list(only_countries)}
        return await _typed(
            self._client.search(filters, storage_gb=policy.gpu_disk_gb, limit=SEARCH_ROWS)
        )


def _takeable(ask: Ask, policy: Policy) -> bool:
    """What an Offer does not carry: whether this row can be rented at all."""
    taken = ask.rentable is False or ask.rented is True or ask.external is True
    roomy = ask.disk_space is None or ask.disk_space >= policy.gpu_disk_gb
    return not taken and roomy and ask.dph_total is not None and ask.min_bid is not None


def _offer(ask: Ask) -> Offer:
    return Offer(
        id=str(ask.id),
        market_machine=str(ask.machine_id or ""),
        owner=str(ask.host_id or ""),
        gpu_name=ask.gpu_name or "GPU",
        gpu_count=ask.num_gpus or 1,
        gpu_ram_gb=round((ask.gpu_ram or 0.0) / GB_IN_MB, 1),
        price_per_hour=ask.dph_total or 0.0,
        bid_min=ask.min_bid or 0.0,
        reliability=ask.reliability or ask.reliability2 or 0.0,
        country=ask.country,
        down_mbps=ask.inet_down or 0.0,
        up_mbps=ask.inet_up or 0.0,
        direct_ports=ask.direct_port_count or 0,
        verified=ask.verification == "verified",
    )


def _description(row: Instance) -> str:
    gpus = f"{row.num_gpus or 1}x {row.gpu_name or 'GPU'}"
    return f"{gpus}, {row.geolocation}" if row.geolocation else gpus


def _key_body(public_key: str) -> str:
    """Type and base64 of a public key line: comments are changed on the way."""
    return " ".join(public_key.split()[:2])


def _number(identity: str) -> int:
    try:
        return int(identity)
    except ValueError:
        raise ProviderError(f"{identity!r} is no id of vast; it must be a number") from None


async def _typed(call: Awaitable[T]) -> T:
    try:
        return await call
    except CloudError as error:
        raise _provider_error(error) from error


def _provider_error(error: CloudError) -> ProviderError:
    """The wire's error in recovery's words: sorted by what recovery does next."""
    reason = str(error)
    match error:
        case AuthError():
            return CredentialError(
                reason, "check DUMONT_VAST_API_KEY: it needs the scopes misc, instance_read, "
                "instance_write, user_read and user_write"
            )  # fmt: skip
        case NoSuchAskError():
            return OfferGoneError(reason)
        case NoCapacityNowError():
            return NoCapacityError(reason)
        case UncertainError():
            detail = f"{reason} ({error.evidence})" if error.evidence else reason
            return OutcomeUnknownError(detail, "it is tried again; if it stays so: DUMONT_VAST_URL")
        case RateLimitedError():
            return ProviderError(reason, "the account's calls are limited: it goes on by itself")
        case _ if "credit" in f"{error.code} {reason}":
            return ProviderError(reason, "add credit to the Vast account")
        case _:
            return ProviderError(reason)
