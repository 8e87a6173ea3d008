"""The bus loses everything under those who watch it: what they are to do is with them in seconds.

A watch of a bucket goes blind when the stream under it is made anew, without any error. So nobody
trusts one: recovery notices what is gone and tells it again, and listeners read all of it anew.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import nats as nats_py
import pytest

from services.recovery.assigner import Assigner
from services.recovery.domain.obligations import assignment
from services.recovery.relay import Relay
from services.recovery.service import Recovery
from shared import assigned, subjects
from shared.assignments import Assignment, System
from shared.bus.nats_bus import NatsBus
from shared.bus.streams import KV_STREAM
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName
from shared.patience import Waits
from tests.contract.test_bus import empty, user
from tests.support.faults import fault
from tests.support.servers import Nats
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, fault(24, 26)]

WS = WorkspaceName("train")
ACTS_WITHIN = 10.0
"""Seconds from the loss until everybody knows what was decided after it."""


class Controller:
    """Recovery as far as it tells others what to do, over a log that outlives the bus."""

    def __init__(self, bus: NatsBus, log: MemoryLog, term: int) -> None:
        self.recovery = Recovery(
            log,
            term=lambda: term,
            now=lambda: datetime.now(UTC),
            new_id=uuid4,
            installation="test",
            ports=[20000],
        )
        self._assigner = Assigner(
            self.recovery,
            bus,
            host_ca=lambda workspace: "",
            user_ca="",
            system=System(configured={}),
        )
        self._relay = Relay(
            log,
            bus,
            term=lambda: term,
            changed=self.recovery.changes(),
            on_renewed=self._assigner.put_again,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loops = [
            asyncio.create_task(loop)
            for loop in (
                self._assigner.run(),
                self._assigner.run_on_changes(),
                self._relay.run(),
            )
        ]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def told(self, watchers: "list[Watcher]") -> bool:
        """Whether every watcher knows what was decided last."""
        wanted = self.wanted()
        return all(watcher.acts_on(wanted) for watcher in watchers)

    def wanted(self) -> Assignment:
        """What is to be done, at whatever position of the log."""
        folded = self.recovery.states[WS]
        return assignment(folded.state, position=0, host_ca="", user_ca="")


class Watcher:
    """Health or sync, as far as they learn what to do."""

    def __init__(self, bus: NatsBus) -> None:
        self._bus = bus
        self._newest: Assignment | None = None

    async def run(self) -> None:
        async for found in assigned.read(self._bus, Waits()):
            for newest in found:
                self._newest = newest

    def acts_on(self, wanted: Assignment) -> bool:
        """Whether that is what it was told last."""
        return self._newest is not None and replace(self._newest, position=0) == wanted


async def delete_bucket(server: Nats) -> None:
    await _delete(server, KV_STREAM)


async def delete_all(server: Nats) -> None:
    await _delete(server, subjects.STREAM_EVENTS, subjects.STREAM_INBOX, KV_STREAM)


async def wipe(server: Nats) -> None:
    await asyncio.to_thread(server.wipe)


async def _delete(server: Nats, *names: str) -> None:
    client = await nats_py.connect(
        server.url, user="admin", password=server.passwords["admin"], inbox_prefix=b"_INBOX_admin"
    )
    for name in names:
        await client.jetstream().delete_stream(name)
    await client.close()


@pytest.mark.parametrize("lose", [delete_bucket, delete_all, wipe])
async def test_what_is_decided_after_the_loss_of_all_streams_is_acted_on_within_seconds(
    own_nats: Nats, lose: Callable[[Nats], Awaitable[None]]
) -> None:
    await empty(own_nats)
    log = MemoryLog()
    term = await log.acquire("test", 3600)
    assert term is not None
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(user(own_nats, "recovery"))
        watchers = [
            Watcher(await stack.enter_async_context(user(own_nats, name)))
            for name in ("health", "sync")
        ]
        api = await stack.enter_async_context(user(own_nats, "api"))
        controller = Controller(bus, log, term)
        await stack.enter_async_context(controller.running())
        for watcher in watchers:
            task = asyncio.create_task(watcher.run())
            stack.callback(task.cancel)
        heard: list[int | None] = []
        listening = asyncio.create_task(listen(api, heard))
        stack.callback(listening.cancel)
        await controller.recovery.listen(request("register", path="/workspace", origin="empty"))
        await until(lambda: controller.told(watchers))

        before = controller.wanted()
        await lose(own_nats)
        lost_at = time.monotonic()
        await controller.recovery.listen(request("remove"))
        assert controller.wanted() != before
        await until(lambda: controller.told(watchers))
        assert time.monotonic() - lost_at < ACTS_WITHIN
        head = await log.head()
        await until(lambda: heard[-1:] == [head])
        assert heard == list(range(1, head + 1)), "who listens misses nothing and hears it once"


async def listen(bus: NatsBus, heard: list[int | None]) -> None:
    tail = bus.tail(stream=subjects.STREAM_EVENTS, subject=subjects.ALL_EVENTS, after_position=0)
    async for envelope in tail:
        heard.append(envelope.position)


def request(verb: str, **arguments: object) -> Envelope:
    event = RequestReceived(workspace=WS, epoch=0, verb=verb, actor="test", arguments=arguments)
    return Envelope(id=uuid4(), source="api", time=datetime.now(UTC), event=event)
