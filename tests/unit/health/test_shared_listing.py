"""One list call serves all hosts, and a machine that is missing in it is not yet gone."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from services.health.adapters.shared_listing import SharedListing
from services.health.domain.detector import ProviderView
from services.health.ports import ProviderError, ProviderUnreachableError, Report
from tests.support.faults import fault

pytestmark = pytest.mark.anyio

RUNNING = Report(ProviderView.RUNNING)


@dataclass
class Account:
    """A provider's account in memory."""

    rows: dict[str, Report] = field(default_factory=lambda: {"1": RUNNING, "2": RUNNING})
    gone: set[str] = field(default_factory=set)
    trouble: ProviderError | None = None
    lists: int = 0
    time: float = 0.0

    async def machines(self) -> Mapping[str, Report]:
        self.lists += 1
        await asyncio.sleep(0)
        if self.trouble:
            raise self.trouble
        return self.rows

    async def is_gone(self, provider_id: str) -> bool:
        if self.trouble:
            raise self.trouble
        return provider_id in self.gone

    def shared(self) -> SharedListing:
        return SharedListing("vast", self, monotonic=lambda: self.time)


@fault(54)
async def test_hosts_that_ask_within_an_interval_share_one_list_call() -> None:
    account = Account()
    shared = account.shared()
    reports = await asyncio.gather(*(shared.report(one, max_age=5) for one in ("1", "2", "1")))
    account.time = 4.0
    reports.append(await shared.report("2", max_age=5))
    assert reports == [RUNNING] * 4
    assert account.lists == 1
    account.time = 6.0
    await shared.report("2", max_age=5)
    assert account.lists == 2


async def test_a_failed_list_call_is_shared_too() -> None:
    account = Account(trouble=ProviderError("500"))
    shared = account.shared()
    for machine in ("1", "2"):
        assert (await shared.report(machine, max_age=5)).view is ProviderView.ERROR
    assert account.lists == 1


async def test_a_provider_that_cannot_be_reached_is_told_from_one_that_errs() -> None:
    account = Account(trouble=ProviderUnreachableError("refused"))
    report = await account.shared().report("1", max_age=5)
    assert report == Report(ProviderView.UNREACHABLE, "refused")


async def test_a_missing_machine_is_gone_only_when_the_provider_says_so_by_name() -> None:
    account = Account(gone={"9"})
    shared = account.shared()
    assert (await shared.report("9", max_age=5)).view is ProviderView.GONE
    assert (await shared.report("8", max_age=5)).view is ProviderView.ERROR


@fault(58)
async def test_an_empty_list_proves_nothing() -> None:
    account = Account(rows={}, gone={"1"})
    assert (await account.shared().report("1", max_age=5)).view is ProviderView.ERROR


async def test_a_host_that_stops_waiting_does_not_end_the_call_for_the_others() -> None:
    account = Account()
    shared = account.shared()
    impatient = asyncio.create_task(shared.report("1", max_age=5))
    patient = asyncio.create_task(shared.report("2", max_age=5))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == RUNNING
    assert account.lists == 1
