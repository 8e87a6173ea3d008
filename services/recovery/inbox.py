"""Brings facts from the inbox into the log. No handler here touches the world.

What cannot be read, or was said by somebody who may not say it, is kept aside with its reason and
never holds up the rest.
"""

import structlog

from services.recovery.service import ForeignFactError, Recovery
from shared import codec, failpoints, subjects
from shared.bus.port import Bus, BusError, Delivery
from shared.envelope import Envelope

DURABLE = "recovery"
UNDECIDABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What a decision raises on values that nobody thought of. Decisions come before the append: what
raised one changed nothing, and would raise it again each time it is delivered."""
REASON_LENGTH_MAX = 500

log = structlog.get_logger()


async def listen_forever(bus: Bus, recovery: Recovery) -> None:
    """Until cancelled. A fact is acknowledged only once it is in the log."""
    async for deliveries in bus.consume(stream=subjects.STREAM_INBOX, durable=DURABLE):
        for delivery in deliveries:
            try:
                await recovery.listen(envelope := _read(delivery))
            except (codec.UndecodableError, ForeignFactError) as error:
                await _set_aside(bus, delivery, str(error))
            except UNDECIDABLE as error:
                reason = f"nothing can be decided on it: {type(error).__name__}: {error}"
                await _set_aside(bus, delivery, reason)
            else:
                failpoints.reach("inbox.recorded", envelope.event.type)
                await delivery.ack()


def _read(delivery: Delivery) -> Envelope:
    """Raises UndecodableError, ForeignFactError."""
    envelope = codec.decode(delivery.body)
    event = envelope.event
    if delivery.subject != subjects.inbox(envelope.source, event.workspace, event.type):
        raise ForeignFactError(f"it says it is from {envelope.source}, on {delivery.subject}")
    return envelope


def _one_line(reason: str) -> str:
    """Fit for a header: it may quote what somebody sent."""
    return "".join(c if c.isprintable() else " " for c in reason)[:REASON_LENGTH_MAX]


async def _set_aside(bus: Bus, delivery: Delivery, reason: str) -> None:
    log.warning("set aside", subject=delivery.subject, reason=_one_line(reason))
    try:
        await bus.publish_raw(
            subjects.deadletter("recovery"),
            delivery.body,
            {"Dumont-Reason": _one_line(reason), "Dumont-Subject": delivery.subject},
        )
    except BusError:
        await delivery.nak(1.0)
    else:
        await delivery.term()
