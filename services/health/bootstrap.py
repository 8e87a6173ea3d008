"""Which adapter plays which port."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from services.health.adapters.gce_listing import GceListing
from services.health.adapters.shared_listing import SharedListing
from services.health.adapters.ssh_reach import SshReach
from services.health.adapters.vast_listing import VastListing
from services.health.domain.detector import Brake
from services.health.ports import Listing
from services.health.service import SERVICE, Health
from services.health.settings import Settings
from shared import clock
from shared.bus.nats_bus import NatsBus
from shared.clouds.gce import GceClient
from shared.clouds.vast import VastClient
from shared.credentials import Credentials
from shared.patience import Waits
from shared.pulse import beating
from shared.ssh import new_key

log = structlog.get_logger()


@asynccontextmanager
async def health(settings: Settings) -> AsyncIterator[Health]:
    """The service, connected; everything is closed afterwards."""
    async with AsyncExitStack() as stack:
        waits = Waits()
        bus = await stack.enter_async_context(
            NatsBus.connect(
                settings.nats_url, settings.nats_user, settings.nats_password, waits=waits
            )
        )
        await stack.enter_async_context(beating(bus, SERVICE, waits, replica=settings.replica))
        providers: dict[str, SharedListing] = {}
        for provider, listing in _listings(settings, stack).items():
            providers[provider] = SharedListing(provider, listing)
            stack.push_async_callback(providers[provider].aclose)
        yield Health(
            bus,
            providers=providers,
            reach=SshReach(Credentials(bus, SERVICE, new_key)),
            now=clock.now,
            new_id=clock.new_id,
            ready=lambda: _touch(settings),
            brake=Brake(share=settings.silent_share, hosts_min=settings.silent_hosts_min),
            waits=waits,
        )


def _listings(settings: Settings, stack: AsyncExitStack) -> dict[str, Listing]:
    """The providers that we have a key for."""
    listings: dict[str, Listing] = {}
    if settings.vast_read_key:
        vast = VastClient(
            key=settings.vast_read_key, url=settings.vast_url, pace=settings.provider_pace
        )
        stack.push_async_callback(vast.aclose)
        listings["vast"] = VastListing(vast)
    if settings.gce_project:
        gce = GceClient(project=settings.gce_project, url=settings.gce_url)
        stack.push_async_callback(gce.aclose)
        listings["gce"] = GceListing(gce)
    for provider in {"vast", "gce"} - listings.keys():
        log.warning("provider not configured: its hosts are judged without it", provider=provider)
    return listings


def _touch(settings: Settings) -> None:
    if settings.ready_file is not None:
        settings.ready_file.touch()
