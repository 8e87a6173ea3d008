"""Brings facts from the inbox into the log. No handler here touches the world.

What cannot be read, or was said by somebody who may not say it, is kept aside with its reason and
never holds up the rest.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from itertools import count
from typing import TypeVar

import structlog

from services.recovery.service import ForeignFactError, Recovery
from shared import codec, failpoints, subjects
from shared.bus.port import Backbone, Bus, BusError, Delivery
from shared.envelope import Envelope
from shared.patience import pause_after

DURABLE = "recovery"
REASON_LENGTH_MAX = 500

BACKLOG_SECONDS_MAX = 6.0
"""So long a deadline waits for what was said before it: longer than the bus takes to deliver again
what a recovery took and died with (``ack_wait`` of its durable), and not for ever."""
LOOK_FIRST, LOOK_MAX = 0.02, 0.5
"""Pauses, in seconds, between looks at how much of the backlog is left."""

log = structlog.get_logger()

T = TypeVar("T")


async def listen_forever(bus: Bus, recovery: Recovery) -> None:
    """Until cancelled. A fact is acknowledged only once it is in the log.

    What is delivered together is recorded together, and what comes next is fetched meanwhile.
    """
    deliveries = bus.consume(stream=subjects.STREAM_INBOX, durable=DURABLE)
    async with aclosing(_fetched_ahead(deliveries)) as batches:
        async for batch in batches:
            await _bring_in(bus, recovery, batch)


class Backlog:
    """What was said and is still on the bus."""

    def __init__(self, bus: Backbone) -> None:
        self._bus = bus
        self._gave_up = False

    async def heard(self) -> None:
        """Return once all that the inbox holds at this moment is settled, or after a bound.

        A bus that is lost costs the bound once, and not again until it is back.
        """
        if self._gave_up and not self._bus.connected:
            return
        try:
            async with asyncio.timeout(BACKLOG_SECONDS_MAX):
                await self._until_settled()
            self._gave_up = False
        except TimeoutError:
            self._gave_up = True
            log.warning("goes on without what may be waiting on the bus")

    async def _until_settled(self) -> None:
        following: int | None = None
        for looks in count(1):
            with suppress(BusError):
                held = await self._bus.unsettled(subjects.STREAM_INBOX)
                following = held.stop if following is None else following
                # A stream made anew counts from the beginning: what we knew of is not in it.
                if not held or not held.start < following <= held.stop:
                    return
            await asyncio.sleep(pause_after(looks, first=LOOK_FIRST, most=LOOK_MAX, chance=0.0))


async def _bring_in(bus: Bus, recovery: Recovery, deliveries: Sequence[Delivery]) -> None:
    facts: list[tuple[Delivery, Envelope]] = []
    for delivery in deliveries:
        try:
            facts.append((delivery, _read(delivery)))
        except (codec.UndecodableError, ForeignFactError) as error:
            await _set_aside(bus, delivery, error)
    refused = await recovery.listen_all([envelope for _, envelope in facts])
    for delivery, envelope in facts:
        if reason := refused.get(envelope.id):
            await _set_aside(bus, delivery, reason)
        else:
            failpoints.reach("inbox.recorded", envelope.event.type)
            await delivery.ack()


async def _fetched_ahead(batches: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The same, with the next one on its way while this one is worked on."""
    coming = asyncio.ensure_future(anext(batches))
    try:
        while True:
            try:
                batch = await coming
            except StopAsyncIteration:
                return
            coming = asyncio.ensure_future(anext(batches))
            yield batch
    finally:
        coming.cancel()
        await asyncio.wait([coming])


def _read(delivery: Delivery) -> Envelope:
    """Raises UndecodableError, ForeignFactError."""
    envelope = codec.decode(delivery.body)
    event = envelope.event
    if delivery.subject != subjects.inbox(envelope.source, event.workspace, event.type):
        raise ForeignFactError(f"it says it is from {envelope.source}, on {delivery.subject}")
    return envelope


def _in_words(error: Exception) -> str:
    if isinstance(error, (codec.UndecodableError, ForeignFactError)):
        return str(error)
    return f"nothing can be decided on it: {type(error).__name__}: {error}"


def _one_line(reason: str) -> str:
    """Fit for a header: it may quote what somebody sent."""
    return "".join(c if c.isprintable() else " " for c in reason)[:REASON_LENGTH_MAX]


async def _set_aside(bus: Bus, delivery: Delivery, error: Exception) -> None:
    reason = _one_line(_in_words(error))
    log.warning("set aside", subject=delivery.subject, reason=reason)
    try:
        await bus.publish_raw(
            subjects.deadletter("recovery"),
            delivery.body,
            {"Dumont-Reason": reason, "Dumont-Subject": delivery.subject},
        )
    except BusError:
        await delivery.nak(1.0)
    else:
        await delivery.term()
