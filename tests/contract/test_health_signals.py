"""What health sees of real machines of the simulated clouds, with a key that may only read."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from services.health.adapters.gce_listing import GceListing
from services.health.adapters.vast_listing import VastListing
from services.health.domain.detector import ProviderView
from services.health.ports import Listing, ProviderError, ProviderUnreachableError
from shared.clouds.gce import GceClient
from shared.clouds.gce_answers import VmSpec
from shared.clouds.vast import VastClient
from tests.support.simulator import Simulator, simulator
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    directory: Path = tmp_path_factory.mktemp("clouds")
    with simulator(directory, boot_seconds=0.05, hidden_seconds=0.0) as running:
        yield running


@pytest.fixture
async def vast(clouds: Simulator) -> AsyncIterator[VastListing]:
    client = VastClient(key=clouds.keys["vast_read"], url=clouds.vast_url, pace=0)
    yield VastListing(client)
    clouds.control.delete("/faults")
    await client.aclose()


async def rented(clouds: Simulator) -> str:
    client = VastClient(key=clouds.vast_key, url=clouds.vast_url, pace=0)
    asks = await client.search({}, storage_gb=10, limit=1)
    number = await client.create(asks[0].id, label="watched", image="i", disk_gb=10, bid=5.0)
    await client.aclose()
    return str(number)


async def shown(listing: Listing, machine: str, view: ProviderView) -> str:
    """The provider's words once it shows the machine so."""
    deadline = time.monotonic() + PATIENCE
    while True:
        report = (await listing.machines()).get(machine)
        if report and report.view is view:
            return report.text
        assert time.monotonic() < deadline, f"still {report}"
        await asyncio.sleep(0.05)


async def test_an_outbid_gpu_shows_as_stopped_and_a_lost_one_as_lost(
    clouds: Simulator, vast: VastListing
) -> None:
    machine = await rented(clouds)
    await shown(vast, machine, ProviderView.RUNNING)
    clouds.happen(machine, "lose")
    assert await shown(vast, machine, ProviderView.LOST) == "host offline"
    clouds.happen(machine, "resume")
    await shown(vast, machine, ProviderView.RUNNING)
    clouds.happen(machine, "outbid", form="B")
    assert await shown(vast, machine, ProviderView.STOPPED) == "outbid"


async def test_a_destroyed_gpu_is_gone_by_name(clouds: Simulator, vast: VastListing) -> None:
    machine = await rented(clouds)
    await shown(vast, machine, ProviderView.RUNNING)
    assert not await vast.is_gone(machine)
    client = VastClient(key=clouds.vast_key, url=clouds.vast_url, pace=0)
    await client.destroy(int(machine))
    await client.aclose()
    assert await vast.is_gone(machine)


async def test_a_provider_that_errs_is_told_from_one_that_is_not_reached(
    clouds: Simulator, vast: VastListing
) -> None:
    clouds.fault("http-error", provider="vast", status=500, body="no")
    with pytest.raises(ProviderError) as caught:
        await vast.machines()
    assert not isinstance(caught.value, ProviderUnreachableError)
    nowhere = VastClient(key="k", url="http://127.0.0.1:1", pace=0)
    with pytest.raises(ProviderUnreachableError):
        await VastListing(nowhere).machines()
    await nowhere.aclose()


async def test_a_preempted_standby_shows_as_stopped(clouds: Simulator) -> None:
    client = GceClient(project=clouds.project, url=clouds.gce_url, poll=0.02)
    listing = GceListing(client)
    spec = VmSpec(
        name="standby-1",
        machine_type="e2-small",
        disk_gb=10,
        spot=True,
        image="projects/debian-cloud/global/images/family/debian-12",
    )
    await client.insert("europe-west1-b", spec, request_id=UUID(int=1), within=15)
    machine = "europe-west1-b/standby-1"
    await shown(listing, machine, ProviderView.RUNNING)
    clouds.happen("standby-1", "preempt")
    await shown(listing, machine, ProviderView.STOPPED)
    assert not await listing.is_gone(machine)
    assert await listing.is_gone("europe-west1-b/never-was")
    await client.aclose()
