"""The whole api over a bus and a log in memory, with a clerk in place of recovery."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
import pytest

from services.api import bootstrap
from services.api.routes import Front, create_app
from services.api.settings import Settings
from shared import codec, subjects
from shared.bus.memory import MemoryBus
from shared.bus.port import BusError
from shared.bus.streams import DURABLE_RECOVERY
from shared.clock import new_id, now
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.events.base import Event
from shared.events.recovery import RequestRefused, WorkspacePaused, WorkspaceRegistered
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName
from shared.policy import Policy
from tests.unit.api.tale import Tale

KEY = "a-key-that-is-long-enough"
HEADERS = {"Authorization": f"Bearer {KEY}"}

Answer = Callable[[RequestReceived], Event | None]


def answer_plainly(request: RequestReceived) -> Event | None:
    """Registrations and pauses are granted, failovers refused, the rest is left open."""
    name, epoch = request.workspace, request.epoch
    match request.verb:
        case "register":
            return WorkspaceRegistered(
                workspace=name,
                epoch=0,
                path=str(request.arguments["path"]),
                origin=str(request.arguments["origin"]),
                policy=Policy(),
                endpoint_port=20000,
            )
        case "pause":
            return WorkspacePaused(
                workspace=name, epoch=epoch, reason=str(request.arguments.get("reason", ""))
            )
        case "failover":
            return RequestRefused(
                workspace=name,
                epoch=epoch,
                verb="failover",
                reason="no standby",
                hint="wait for it",
            )
        case _:
            return None


@dataclass
class LossyBus(MemoryBus):
    """Takes what is asked and, while ``losing_answers``, does not confirm it.

    While ``forgetting`` it confirms and loses it: its store was wiped.
    """

    losing_answers: bool = False
    forgetting: bool = False

    async def publish(self, subject: str, envelope: Envelope) -> None:
        if self.forgetting:
            return
        await MemoryBus.publish(self, subject, envelope)
        if self.losing_answers and subject.startswith("dumont.inbox."):
            raise BusError(f"{subject}: no answer in 5 s")


@dataclass
class Clerk:
    """Records what is asked, with an answer, as recovery does. ``working`` False: it is away."""

    bus: MemoryBus
    log: MemoryLog
    answer: Answer = answer_plainly
    working: bool = True
    term: int = 0
    versions: dict[WorkspaceName, int] = field(default_factory=dict)

    async def run(self) -> None:
        inbox = self.bus.consume(stream=subjects.STREAM_INBOX, durable=DURABLE_RECOVERY)
        async for deliveries in inbox:
            for delivery in deliveries:
                if self.working:
                    await self.take(codec.decode(delivery.body))
                    await delivery.ack()

    async def take(self, asked: Envelope) -> None:
        await self.record(asked)
        assert isinstance(asked.event, RequestReceived)
        answer = self.answer(asked.event)
        if answer is not None:
            await self.record(
                Envelope(
                    id=new_id(),
                    source="recovery",
                    time=now(),
                    event=answer,
                    causation=asked.id,
                )
            )

    async def record(self, *envelopes: Envelope) -> None:
        for envelope in envelopes:
            name = envelope.event.workspace
            version = self.versions.get(name, 0)
            recorded = await self.log.append(
                [envelope], term=await self._term(), expected_version=version
            )
            self.versions[name] = version + 1
            subject = subjects.event(name, envelope.event.type)
            if self.bus.connected:
                await self.bus.publish(subject, recorded[0])

    async def _term(self) -> int:
        if not self.term:
            self.term = await self.log.acquire("clerk", 3600) or 0
        return self.term


@dataclass
class Stage:
    """Everything a test of the api needs."""

    http: httpx.AsyncClient
    front: Front
    bus: LossyBus
    log: MemoryLog
    clerk: Clerk

    async def told(self, tale: Tale) -> None:
        """Put what is new in a story into the log and wait until the api has read it."""
        known = await self.log.known([envelope.id for envelope in tale.told])
        await self.clerk.record(*(one for one in tale.told if one.id not in known))
        head = await self.log.head()
        assert await self.front.follower.until(lambda board: board.position >= head, 5)


def settings() -> Settings:
    return Settings(
        nats_url="nats://127.0.0.1:1",
        nats_user="api",
        nats_password="",
        log_dsn="",
        log_password="",
        host="127.0.0.1",
        port=0,
        api_key=KEY,
        endpoint_host="ssh.example",
        ready_file=None,
        log_level="INFO",
    )


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    bus, log = LossyBus(), MemoryLog()
    front = bootstrap.build(settings(), bus, log)
    await front.samples.listen(bus)
    await front.pulses.listen(bus)
    clerk = Clerk(bus, log)
    loops = [
        asyncio.create_task(loop)
        for loop in (front.follower.run(), front.follower.wake_on(bus), clerk.run())
    ]
    transport = httpx.ASGITransport(app=create_app(front), raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://api", headers=HEADERS
    ) as http:
        assert await front.follower.until(lambda _: front.follower.caught_up, 5)
        yield Stage(http=http, front=front, bus=bus, log=log, clerk=clerk)
    front.follower.close()
    for loop in loops:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


@pytest.fixture
async def stage(anyio_backend: str) -> AsyncIterator[Stage]:
    async with staged() as built:
        yield built


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The api waits a moment only for what a test never lets happen."""
    monkeypatch.setattr("services.api.service.RECORDED_WITHIN", 0.05)
    monkeypatch.setattr("services.api.routes.workspaces.REGISTERED_WITHIN", 0.05)
    yield
