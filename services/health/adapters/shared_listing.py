"""One list call serves all hosts of a provider: the share of its rate budget stays fixed.

A listing that fails is not asked for again by the next host either: the failure is shared too.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from services.health.domain.detector import ProviderView
from services.health.ports import (
    Listing,
    ProviderError,
    ProviderUnreachableError,
    Report,
)

log = structlog.get_logger()


class SharedListing:
    """ProviderStatus over a Listing."""

    def __init__(
        self,
        provider: str,
        listing: Listing,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._listing = listing
        self._monotonic = monotonic
        self._asking: asyncio.Task[Mapping[str, Report] | Report] | None = None
        self._asked_at = 0.0

    async def report(self, provider_id: str, *, max_age: float) -> Report:
        now = self._monotonic()
        task = self._asking
        if task is None or (task.done() and now - self._asked_at > max_age):
            task = self._asking = asyncio.create_task(self._ask())
            self._asked_at = now
        # Shielded: a host that stops waiting does not end the call for the others.
        machines = await asyncio.shield(task)
        if isinstance(machines, Report):
            return machines
        return machines.get(provider_id) or await self._absent(provider_id, machines)

    async def aclose(self) -> None:
        """End the call that may be under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> Mapping[str, Report] | Report:
        try:
            return await self._listing.machines()
        except ProviderError as error:
            log.warning("provider status unknown", provider=self._provider, reason=str(error))
            return _silence(error)

    async def _absent(self, provider_id: str, machines: Mapping[str, Report]) -> Report:
        """A machine that is missing in a list is gone only when the provider says so by name."""
        if not machines:
            return Report(ProviderView.ERROR, "an empty list, which proves nothing")
        try:
            gone = await self._listing.is_gone(provider_id)
        except ProviderError as error:
            return _silence(error)
        if gone:
            return Report(ProviderView.GONE, "the machine does not exist any more")
        return Report(ProviderView.ERROR, "missing in the list, yet it exists")


def _silence(error: ProviderError) -> Report:
    unreachable = isinstance(error, ProviderUnreachableError)
    return Report(ProviderView.UNREACHABLE if unreachable else ProviderView.ERROR, str(error))
