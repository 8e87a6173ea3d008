"""Which adapter plays which port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.sync.adapters.standby import StandbyDataPlane
from services.sync.service import SERVICE, Sync
from services.sync.settings import Settings
from shared import clock
from shared.bus.nats_bus import NatsBus
from shared.credentials import Credentials
from shared.patience import Waits
from shared.pulse import beating
from shared.ssh import new_key


@asynccontextmanager
async def sync(settings: Settings) -> AsyncIterator[Sync]:
    """The service, connected; everything is closed afterwards."""
    waits = Waits()
    async with (
        NatsBus.connect(
            settings.nats_url, settings.nats_user, settings.nats_password, waits=waits
        ) as bus,
        beating(bus, SERVICE, waits, replica=settings.replica),
    ):
        yield Sync(
            bus,
            plane=StandbyDataPlane(Credentials(bus, SERVICE, new_key)),
            now=clock.now,
            new_id=clock.new_id,
            ready=lambda: _touch(settings),
            assignment_lease=settings.assignment_lease,
            waits=waits,
        )


def _touch(settings: Settings) -> None:
    if settings.ready_file is not None:
        settings.ready_file.touch()
