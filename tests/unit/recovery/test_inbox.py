"""What recovery hears: kept in the log, or kept aside with its reason, and never in the way."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from services.recovery.inbox import listen_forever
from services.recovery.service import Recovery
from shared import subjects
from shared.bus.memory import MemoryBus
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName

pytestmark = pytest.mark.anyio

ODD = WorkspaceName("odd")
GOOD = WorkspaceName("good")


class Stumbling(Recovery):
    """Decides as recovery does, but stumbles over one workspace: a mistake still to be made."""

    async def listen(self, received: Envelope) -> None:
        if received.event.workspace == ODD:
            raise OverflowError("more\nthan a date can hold" + "!" * 1_000)
        await super().listen(received)


def request(workspace: WorkspaceName) -> Envelope:
    event = RequestReceived(workspace=workspace, epoch=0, verb="pause", actor="test")
    return Envelope(id=uuid4(), source="api", time=datetime.now(UTC), event=event)


async def test_an_event_that_a_decision_stumbles_over_is_kept_aside_and_the_next_is_heard() -> None:
    bus, log = MemoryBus(), MemoryLog()
    term = await log.acquire("test", 60.0)
    assert term is not None
    recovery = Stumbling(
        log,
        term=lambda: term,
        now=lambda: datetime.now(UTC),
        new_id=uuid4,
        installation="test",
        ports=[20000],
    )
    aside: list[bytes] = []

    async def keep(_: str, body: bytes) -> None:
        aside.append(body)

    await bus.subscribe(subjects.deadletter("recovery"), keep)
    for workspace in (ODD, GOOD):
        subject = subjects.inbox("api", workspace, "RequestReceived")
        await bus.publish(subject, request(workspace))
    listening = asyncio.create_task(listen_forever(bus, recovery))
    async with asyncio.timeout(5):
        while not await log.head():
            await asyncio.sleep(0)
    listening.cancel()
    assert len(aside) == 1
    assert b'"odd"' in aside[0]
    assert [envelope.event.workspace for envelope in await log.read()] == [GOOD, GOOD]
