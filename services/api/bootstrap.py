"""Which adapter plays which port, and the loops of this service."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from services.api.adapters.keys import Keys
from services.api.adapters.pulses import Pulses
from services.api.adapters.server import listen, serve
from services.api.adapters.telemetry import Samples
from services.api.ports import Bus, LogReader
from services.api.routes import Front, create_app
from services.api.service import Follower, Requests
from services.api.settings import Settings
from shared.bus.nats_bus import NatsBus
from shared.clock import new_id, now
from shared.eventlog.reader import PostgresReader
from shared.patience import Waits
from shared.runtime import run_until_stopped

FIRST_ACTOR = "admin"
STILL_READING_SECONDS = 30.0

log = structlog.get_logger()


async def run(settings: Settings) -> None:
    """Serve until SIGTERM. Raises what ended a loop."""
    sock = listen(settings.host, settings.port)
    waits = Waits()
    async with _connected(settings, waits) as (bus, reader):
        front = build(settings, bus, reader, waits)
        follower = front.follower
        await front.samples.listen(bus)
        await front.pulses.listen(bus)
        await run_until_stopped(
            follower.run(),
            follower.wake_on(bus),
            _serve(front, sock),
            _announce(settings, follower, sock.getsockname()[1]),
        )


def build(settings: Settings, bus: Bus, reader: LogReader, waits: Waits | None = None) -> Front:
    """The parts of the service over a bus and a log."""
    waits = waits or Waits()
    follower = Follower(reader, waits=waits)
    return Front(
        follower=follower,
        requests=Requests(bus, follower, now=now, new_id=new_id),
        samples=Samples(now),
        pulses=Pulses(now),
        waits=waits,
        bus=bus,
        keys=Keys({settings.api_key: FIRST_ACTOR}),
        now=now,
        endpoint_host=settings.endpoint_host,
    )


@asynccontextmanager
async def _connected(settings: Settings, waits: Waits) -> AsyncIterator[tuple[Bus, LogReader]]:
    async with (
        NatsBus.connect(
            settings.nats_url, settings.nats_user, settings.nats_password, waits=waits
        ) as bus,
        PostgresReader(settings.log_dsn, settings.log_password) as reader,
    ):
        yield bus, reader


async def _serve(front: Front, sock: socket.socket) -> None:
    try:
        await serve(create_app(front), sock)
    except asyncio.CancelledError:
        front.follower.close()
        raise


async def _announce(settings: Settings, follower: Follower, port: int) -> None:
    """Say once that we are ready: the log is read to its end."""
    while not await follower.until(lambda _: follower.caught_up, STILL_READING_SECONDS):
        if follower.closed:
            return
        log.info("still reading the log", position=follower.board.position)
    log.info("serving", host=settings.host, port=port, position=follower.board.position)
    if settings.ready_file is not None:
        settings.ready_file.touch()
