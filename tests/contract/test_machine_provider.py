"""What every machine provider promises to recovery, shown on both clouds of the simulator."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from services.recovery.adapters.gce import GceProvider
from services.recovery.adapters.vast import VastMarket, VastProvider
from services.recovery.domain.market import choose
from services.recovery.ports import (
    CredentialError,
    MachineProvider,
    NoCapacityError,
    OfferGoneError,
    Order,
    OutcomeUnknownError,
    ProviderError,
    Rental,
    RentalStatus,
)
from shared.clouds.gce import GceClient
from shared.clouds.vast import VastClient
from shared.machines import Host, MachineId, Role
from shared.policy import Policy
from shared.ssh import SshError, new_key, run_root
from tests.support.faults import fault
from tests.support.simulator import Simulator, simulator
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.anyio

GRACE = 0.6
PRIVATE_KEY, PUBLIC_KEY = new_key()
POLICY = Policy(standby_zone="europe-west1-b", standby_disk_gb=10)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    directory: Path = tmp_path_factory.mktemp("clouds")
    with simulator(directory, boot_seconds=0.1, hidden_seconds=0.1) as running:
        yield running


@pytest.fixture(autouse=True)
def calm(clouds: Simulator) -> Iterator[None]:
    """No fault of one test reaches the next."""
    yield
    clouds.control.delete("/faults")


@dataclass
class Cloud:
    """One provider under test, with what differs between the two."""

    name: str
    clouds: Simulator
    provider: MachineProvider
    market: VastMarket | None = None
    again: Callable[[], MachineProvider] | None = None

    async def order(self, **fields: object) -> Order:
        """An order for a fresh label; on Vast for the offer that recovery would choose."""
        label = MachineId(f"test-{self.name}-{next(_numbers)}")
        role = Role.GPU if self.market else Role.STANDBY
        order = Order(label=label, role=role, policy=POLICY, bootstrap_public_key=PUBLIC_KEY)
        if self.market:
            choice = choose(await self.market.search(POLICY), POLICY, frozenset())
            assert choice is not None
            order = replace(order, offer=choice.offer.id, bid=choice.bid)
        return replace(order, **fields)  # type: ignore[arg-type]

    def billed(self, label: str) -> int:
        """How many machines with this label the simulator has, by its own books."""
        return sum(machine["label"] == label for machine in self.clouds.machines())


@pytest.fixture(params=["vast", "gce"])
async def cloud(request: pytest.FixtureRequest, clouds: Simulator) -> AsyncIterator[Cloud]:
    vast = VastClient(key=clouds.vast_key, url=clouds.vast_url, pace=0)
    gce = GceClient(project=clouds.project, url=clouds.gce_url, poll=0.02)
    if request.param == "vast":
        again: Callable[[], MachineProvider] = partial(VastProvider, vast, grace=GRACE)
        cloud = Cloud("vast", clouds, again(), VastMarket(vast), again=again)
    else:
        zones = ("europe-west1-c", "europe-west4-a")
        again = partial(
            GceProvider, gce, zones=zones, operation_timeout=10, ssh_port=clouds.gce_ssh_port
        )
        cloud = Cloud("gce", clouds, again(), again=again)
    yield cloud
    clouds.control.delete("/faults")
    for rental in await cloud.provider.inventory(f"test-{cloud.name}-"):
        await until(partial(cloud.provider.destroy, rental.provider_id))
    await vast.aclose()
    await gce.aclose()


async def shown_as(cloud: Cloud, rental: Rental, status: RentalStatus) -> Rental:
    """The rental once the provider shows it in this status."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            seen = await cloud.provider.get(rental.provider_id)
        except OutcomeUnknownError:
            seen = rental
        assert seen is not None
        if seen.status is status:
            return seen
        assert time.monotonic() < deadline, f"still {seen.status} ({seen.status_text})"
        await asyncio.sleep(0.05)


async def settled(cloud: Cloud, order: Order) -> Rental:
    """Provision as recovery does: again for as long as the outcome is unknown."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await cloud.provider.provision(order)
        except OutcomeUnknownError:
            assert time.monotonic() < deadline, "the outcome stays unknown"
            await asyncio.sleep(0.1)


# --- promises of both -------------------------------------------------------------------------


async def test_a_machine_is_rented_under_its_label_and_comes_up_with_an_address(
    cloud: Cloud,
) -> None:
    order = await cloud.order()
    rental = await cloud.provider.provision(order)
    assert (rental.label, rental.provider) == (order.label, cloud.name)
    up = await shown_as(cloud, rental, RentalStatus.RUNNING)
    assert up.address
    assert up.port
    assert up.price_per_hour > 0
    assert up.description


async def test_the_bootstrap_key_opens_the_new_machine_for_root(cloud: Cloud) -> None:
    up = await shown_as(
        cloud, await cloud.provider.provision(await cloud.order()), RentalStatus.RUNNING
    )
    assert up.address
    assert up.port
    host = Host(
        id=up.label, provider=up.provider, provider_id=up.provider_id, address=up.address,
        port=up.port,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            done = await run_root(
                host, private_key=PRIVATE_KEY, command="whoami; command -v rsync", timeout=5,
                known_host_key=None,
            )  # fmt: skip
            break
        except SshError:
            assert time.monotonic() < deadline, "root never gets in"
            await asyncio.sleep(0.1)
    assert done.stdout.split()[0] == b"root"
    assert b"rsync" in done.stdout


@fault(7, 56)
async def test_provisioning_the_same_label_again_rents_nothing_more(cloud: Cloud) -> None:
    order = await cloud.order()
    first = await cloud.provider.provision(order)
    again = await settled(cloud, order)
    assert again.provider_id == first.provider_id
    assert cloud.billed(order.label) == 1


@fault(57, 58)
async def test_a_machine_that_was_just_rented_is_never_gone_whoever_looked_at_the_list(
    cloud: Cloud,
) -> None:
    rental = await cloud.provider.provision(await cloud.order())
    await cloud.provider.inventory(f"test-{cloud.name}-")
    assert await cloud.provider.get(rental.provider_id) is not None


@fault(56)
async def test_a_lost_answer_ends_in_one_machine(cloud: Cloud) -> None:
    order = await cloud.order()
    cloud.clouds.fault("create-answer-lost", provider=cloud.name)
    with pytest.raises(OutcomeUnknownError):
        await cloud.provider.provision(order)
    assert (await settled(cloud, order)).label == order.label
    assert cloud.billed(order.label) == 1


@fault(57)
async def test_a_lost_answer_and_a_late_list_end_in_one_machine(cloud: Cloud) -> None:
    order = await cloud.order()
    cloud.clouds.fault("list-lag", provider=cloud.name, seconds=GRACE / 2)
    cloud.clouds.fault("create-answer-lost", provider=cloud.name)
    await settled(cloud, order)
    assert cloud.billed(order.label) == 1


@fault(6, 7)
async def test_an_order_that_may_have_been_placed_before_a_restart_rents_once(
    cloud: Cloud,
) -> None:
    order = await cloud.order()
    cloud.clouds.fault("list-lag", provider=cloud.name, seconds=GRACE / 2)
    cloud.clouds.fault("create-answer-lost", provider=cloud.name)
    with pytest.raises(OutcomeUnknownError):
        await cloud.provider.provision(order)
    assert cloud.again is not None
    cloud.provider = cloud.again()
    await settled(cloud, replace(order, retried=True))
    assert cloud.billed(order.label) == 1


@fault(6)
async def test_an_order_that_was_never_placed_is_placed_after_a_restart(cloud: Cloud) -> None:
    order = replace(await cloud.order(), retried=True)
    await settled(cloud, order)
    assert cloud.billed(order.label) == 1


@fault(69)
async def test_a_machine_is_found_by_its_exact_label_and_by_prefix(cloud: Cloud) -> None:
    order = await cloud.order()
    rental = await cloud.provider.provision(order)
    await shown_as(cloud, rental, RentalStatus.RUNNING)
    (found,) = await cloud.provider.find(order.label)
    assert found.provider_id == rental.provider_id
    assert await cloud.provider.find(MachineId(order.label[:-1])) == ()
    prefixed = await cloud.provider.inventory(order.label[:6])
    assert order.label in {one.label for one in prefixed}
    assert await cloud.provider.inventory("no-such-prefix") == ()


async def test_a_destroyed_machine_is_seen_to_be_gone(cloud: Cloud) -> None:
    order = await cloud.order()
    rental = await cloud.provider.provision(order)
    await shown_as(cloud, rental, RentalStatus.RUNNING)
    await until(lambda: cloud.provider.destroy(rental.provider_id))
    assert await cloud.provider.get(rental.provider_id) is None
    assert cloud.billed(order.label) == 0
    assert await cloud.provider.destroy(rental.provider_id), "to destroy it again is a success"
    assert await cloud.provider.stop(rental.provider_id), "what is gone does not run"


@fault(65)
async def test_a_destroy_that_lies_is_not_believed(cloud: Cloud) -> None:
    rental = await cloud.provider.provision(await cloud.order())
    await shown_as(cloud, rental, RentalStatus.RUNNING)
    cloud.clouds.fault("destroy-lies", provider=cloud.name)
    assert not await cloud.provider.destroy(rental.provider_id)
    await until(lambda: cloud.provider.destroy(rental.provider_id))


async def test_a_machine_is_stopped_and_started_again(cloud: Cloud) -> None:
    rental = await cloud.provider.provision(await cloud.order())
    await shown_as(cloud, rental, RentalStatus.RUNNING)
    await until(lambda: cloud.provider.stop(rental.provider_id))
    stopped = await cloud.provider.get(rental.provider_id)
    assert stopped is not None
    assert stopped.status is RentalStatus.STOPPED
    await cloud.provider.start(rental.provider_id)
    await shown_as(cloud, rental, RentalStatus.RUNNING)


@fault(55, 58)
@pytest.mark.parametrize("status", [500, 503, 429, 404])
async def test_trouble_at_the_provider_is_never_an_empty_account(cloud: Cloud, status: int) -> None:
    order = await cloud.order()
    rental = await cloud.provider.provision(order)
    await shown_as(cloud, rental, RentalStatus.RUNNING)
    cloud.clouds.fault("http-error", provider=cloud.name, status=status, body="trouble")
    for ask in (
        cloud.provider.get(rental.provider_id),
        cloud.provider.find(order.label),
        cloud.provider.inventory("test-"),
        cloud.provider.provision(order),
        cloud.provider.destroy(rental.provider_id),
    ):
        with pytest.raises(ProviderError):
            await ask


@fault(55)
async def test_garbage_is_never_an_empty_account(cloud: Cloud) -> None:
    rental = await cloud.provider.provision(await cloud.order())
    cloud.clouds.fault("http-error", provider=cloud.name, status=200, body="<html>")
    for ask in (cloud.provider.inventory("test-"), cloud.provider.get(rental.provider_id)):
        with pytest.raises(ProviderError):
            await ask


async def test_an_id_of_another_provider_is_refused_in_words(cloud: Cloud) -> None:
    with pytest.raises(ProviderError, match="is no id of"):
        await cloud.provider.get("nonsense")


# --- Vast -------------------------------------------------------------------------------------


@pytest.fixture
async def vast(clouds: Simulator) -> AsyncIterator[Cloud]:
    client = VastClient(key=clouds.vast_key, url=clouds.vast_url, pace=0)
    provider = VastProvider(client, grace=GRACE)
    cloud = Cloud("vast", clouds, provider, VastMarket(client))
    yield cloud
    clouds.control.delete("/faults")
    for rental in await provider.inventory("test-vast-"):
        await until(partial(provider.destroy, rental.provider_id))
    await client.aclose()


async def running_gpu(vast: Cloud) -> Rental:
    return await shown_as(
        vast, await vast.provider.provision(await vast.order()), RentalStatus.RUNNING
    )


@pytest.mark.parametrize("form", ["A", "B"])
async def test_both_signatures_of_a_lost_bid_are_read_as_outbid(vast: Cloud, form: str) -> None:
    rental = await running_gpu(vast)
    vast.clouds.happen(rental.provider_id, "outbid", form=form)
    seen = await vast.provider.get(rental.provider_id)
    assert seen is not None
    assert (seen.status, seen.status_text) == (RentalStatus.STOPPED, "outbid")
    assert await vast.provider.stop(rental.provider_id), "an outbid machine can be fenced"


@fault(59)
@pytest.mark.parametrize("status", ["offline", "unknown"])
async def test_a_lost_host_is_neither_gone_nor_stopped(vast: Cloud, status: str) -> None:
    rental = await running_gpu(vast)
    vast.clouds.happen(rental.provider_id, "lose", status=status)
    seen = await vast.provider.get(rental.provider_id)
    assert seen is not None
    assert seen.status is RentalStatus.LOST


@fault(60)
async def test_an_offer_that_was_taken_is_told_from_other_refusals(vast: Cloud) -> None:
    order = await vast.order()
    vast.clouds.fault("offer-vanishes")
    with pytest.raises(OfferGoneError):
        await vast.provider.provision(order)
    assert vast.billed(order.label) == 0
    other = replace(order, offer=(await vast.order()).offer)
    assert (await vast.provider.provision(other)).label == order.label, "nothing is unsettled"


@fault(62)
async def test_a_bid_under_the_floor_leaves_nothing_behind(vast: Cloud) -> None:
    order = await vast.order(bid=0.001)
    with pytest.raises(ProviderError):
        await vast.provider.provision(order)
    assert vast.billed(order.label) == 0


@fault(57)
async def test_of_two_machines_with_one_label_the_older_stays(vast: Cloud) -> None:
    order = await vast.order()
    first = await shown_as(vast, await vast.provider.provision(order), RentalStatus.RUNNING)
    other = await vast.order()
    second = await vast.provider.provision(other)
    vast.clouds.vast().put(
        f"/api/v0/instances/{second.provider_id}/", json={"label": order.label}
    ).raise_for_status()
    await shown_as(vast, second, RentalStatus.RUNNING)
    kept = await vast.provider.provision(order)
    assert kept.provider_id == first.provider_id
    assert vast.billed(order.label) == 1


async def test_a_start_that_would_only_be_queued_is_called_off(vast: Cloud) -> None:
    rental = await running_gpu(vast)
    await until(lambda: vast.provider.stop(rental.provider_id))
    vast.clouds.fault("start-queued")
    with pytest.raises(NoCapacityError):
        await vast.provider.start(rental.provider_id)
    assert vast.clouds.machine(rental.provider_id)["intended"] == "stopped"


@fault(63)
async def test_a_machine_that_does_not_boot_is_told_as_failed(vast: Cloud) -> None:
    vast.clouds.fault("boot-fails")
    rental = await vast.provider.provision(await vast.order())
    failed = await shown_as(vast, rental, RentalStatus.FAILED)
    assert "did not boot" in failed.status_text


@fault(67)
async def test_no_credit_is_a_refusal_with_a_hint(vast: Cloud) -> None:
    order = await vast.order()
    vast.clouds.control.put("/credit", json={"usd": 0}).raise_for_status()
    try:
        with pytest.raises(ProviderError) as caught:
            await vast.provider.provision(order)
    finally:
        vast.clouds.control.put("/credit", json={"usd": 100}).raise_for_status()
    assert "credit" in caught.value.hint


@fault(67)
async def test_a_refused_key_is_a_matter_for_people(vast: Cloud) -> None:
    client = VastClient(key="wrong", url=vast.clouds.vast_url, pace=0)
    provider = VastProvider(client)
    with pytest.raises(CredentialError) as caught:
        await provider.inventory("")
    await client.aclose()
    assert "DUMONT_VAST_API_KEY" in caught.value.hint


@fault(67)
async def test_a_key_that_may_only_read_cannot_rent(vast: Cloud) -> None:
    order = await vast.order()
    client = VastClient(key=vast.clouds.keys["vast_read"], url=vast.clouds.vast_url, pace=0)
    provider = VastProvider(client)
    assert await provider.find(order.label) == ()
    with pytest.raises(CredentialError):
        await provider.provision(order)
    await client.aclose()


@fault(61)
async def test_every_offer_of_a_search_is_within_the_policy(vast: Cloud) -> None:
    assert vast.market is not None
    policy = Policy(gpu_price_max=0.3, gpu_ram_min_gb=12, regions=("EU",), regions_strict=True)
    offers = await vast.market.search(policy)
    assert offers
    for offer in offers:
        assert offer.price_per_hour <= 0.3
        assert offer.gpu_ram_gb >= 12
        assert offer.country in {"DE", "FR", "PL", "SE"}
        assert offer.verified


@fault(55, 61)
async def test_a_market_without_a_fit_is_empty_and_a_failing_one_is_not(vast: Cloud) -> None:
    assert vast.market is not None
    assert await vast.market.search(Policy(gpu_price_max=0.01)) == []
    vast.clouds.fault("rate-limit", form="quota")
    with pytest.raises(ProviderError):
        await vast.market.search(POLICY)


# --- Compute Engine ---------------------------------------------------------------------------


@pytest.fixture
async def gce(clouds: Simulator) -> AsyncIterator[Cloud]:
    client = GceClient(project=clouds.project, url=clouds.gce_url, poll=0.02)
    provider = GceProvider(client, zones=("europe-west1-c",), operation_timeout=10)
    cloud = Cloud("gce", clouds, provider)
    yield cloud
    clouds.control.delete("/faults")
    for rental in await provider.inventory("test-gce-"):
        await until(partial(provider.destroy, rental.provider_id))
    await client.aclose()


async def test_a_zone_without_room_gives_way_to_the_next(gce: Cloud) -> None:
    gce.clouds.fault(
        "operation-error",
        operation="insert",
        code="ZONE_RESOURCE_POOL_EXHAUSTED",
        zone=POLICY.standby_zone,
    )
    rental = await gce.provider.provision(await gce.order())
    assert rental.provider_id.startswith("europe-west1-c/")


async def test_when_no_zone_has_room_the_hint_says_what_to_set(gce: Cloud) -> None:
    order = await gce.order()
    gce.clouds.fault(
        "operation-error", operation="insert", code="ZONE_RESOURCE_POOL_EXHAUSTED", count=2
    )
    with pytest.raises(NoCapacityError) as caught:
        await gce.provider.provision(order)
    assert "DUMONT_GCE_ZONES" in caught.value.hint
    assert gce.billed(order.label) == 0


@fault(72)
async def test_a_preempted_standby_is_stopped_and_can_be_started(gce: Cloud) -> None:
    rental = await gce.provider.provision(await gce.order())
    await shown_as(gce, rental, RentalStatus.RUNNING)
    gce.clouds.happen(rental.label, "preempt")
    await gce.provider.start(rental.provider_id)
    await shown_as(gce, rental, RentalStatus.RUNNING)


async def test_a_start_without_room_is_told_as_such(gce: Cloud) -> None:
    rental = await gce.provider.provision(await gce.order())
    await shown_as(gce, rental, RentalStatus.RUNNING)
    await until(lambda: gce.provider.stop(rental.provider_id))
    gce.clouds.fault("operation-error", operation="start", code="ZONE_RESOURCE_POOL_EXHAUSTED")
    with pytest.raises(NoCapacityError):
        await gce.provider.start(rental.provider_id)


@fault(69)
async def test_a_vm_of_somebody_else_is_neither_adopted_nor_listed(gce: Cloud) -> None:
    order = await gce.order()
    zone = POLICY.standby_zone
    answer = gce.clouds.control.post(
        f"{gce.clouds.gce_url}/compute/v1/projects/{gce.clouds.project}/zones/{zone}/instances",
        json={
            "name": order.label,
            "machineType": f"zones/{zone}/machineTypes/e2-small",
            "disks": [
                {
                    "boot": True,
                    "initializeParams": {
                        "sourceImage": "projects/debian-cloud/global/images/family/debian-12"
                    },
                }
            ],
            "networkInterfaces": [{"network": "global/networks/default"}],
        },
    )
    assert answer.is_success, answer.text
    with pytest.raises(ProviderError, match="not ours"):
        await gce.provider.provision(order)
    assert await gce.provider.inventory("test-gce-") == ()


async def test_a_project_that_is_not_set_is_a_matter_for_people(gce: Cloud) -> None:
    provider = GceProvider(GceClient(project="", url=gce.clouds.gce_url))
    with pytest.raises(CredentialError, match="DUMONT_GCE_PROJECT"):
        await provider.inventory("")
