"""The sign of life of a service: who it is, whether it acts, and what it waits for.

On core NATS only, every two seconds and whenever a wait begins or ends. Whoever does not hear it
knows nothing of that service, and says so; nothing else may depend on it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from pydantic import TypeAdapter

from shared.bus.port import Bus, BusError
from shared.patience import Wait, Waits
from shared.subjects import pulse

INTERVAL = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """``acting`` is False in a replica that stands by and in one that refuses to act."""

    replica: str
    acting: bool
    waits: tuple[Wait, ...] = ()


_PULSE = TypeAdapter(Pulse)


def encode(said: Pulse) -> bytes:
    return _PULSE.dump_json(said)


def decode(body: bytes) -> Pulse:
    """Raises pydantic.ValidationError."""
    return _PULSE.validate_json(body)


@asynccontextmanager
async def beating(
    bus: Bus,
    service: str,
    waits: Waits,
    *,
    replica: str,
    acting: Callable[[], bool] = lambda: True,
) -> AsyncIterator[None]:
    """Say it as long as the context lasts."""
    heart = asyncio.create_task(_beat(bus, service, waits, replica, acting))
    try:
        yield
    finally:
        heart.cancel()
        with suppress(asyncio.CancelledError):
            await heart


async def _beat(
    bus: Bus, service: str, waits: Waits, replica: str, acting: Callable[[], bool]
) -> None:
    while True:
        waits.changed.clear()
        said = Pulse(replica=replica, acting=acting(), waits=tuple(waits.current()))
        # What the bus does not take now would be out of date when it does.
        with suppress(BusError):
            if bus.connected:
                await bus.publish_raw(pulse(service), encode(said))
        await waits.changed.comes(INTERVAL)
