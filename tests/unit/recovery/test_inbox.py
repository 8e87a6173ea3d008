"""What recovery hears: kept in the log, or kept aside with its reason, and never in the way."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from services.recovery.domain import decider
from services.recovery.domain.decider import Context
from services.recovery.domain.state import State
from services.recovery.inbox import listen_forever
from services.recovery.service import Recovery
from shared import subjects
from shared.bus.memory import MemoryBus
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.eventlog.port import Batch, LogUnknownError, WrongVersionError
from shared.events import Event
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName
from tests.support.faults import fault

pytestmark = pytest.mark.anyio

ODD = WorkspaceName("odd")
GOOD = WorkspaceName("good")
OTHER = WorkspaceName("other")


@dataclass(slots=True)
class CountingLog(MemoryLog):
    """``together`` has how many batches each append brought; ``troubles`` are met one by one."""

    together: list[int] = field(default_factory=list)
    troubles: list[Exception] = field(default_factory=list)
    done_all_the_same: bool = False

    async def append_all(self, batches: Sequence[Batch], *, term: int) -> list[Envelope]:
        self.together.append(len(batches))
        if self.troubles and not self.done_all_the_same:
            raise self.troubles.pop()
        recorded = await MemoryLog.append_all(self, batches, term=term)
        if self.troubles:
            raise self.troubles.pop()
        return recorded


@dataclass
class Scene:
    bus: MemoryBus = field(default_factory=MemoryBus)
    log: CountingLog = field(default_factory=CountingLog)
    aside: list[bytes] = field(default_factory=list)

    async def say(self, facts: Iterable[Envelope]) -> None:
        for fact in facts:
            subject = subjects.inbox("api", fact.event.workspace, "RequestReceived")
            await self.bus.publish(subject, fact)

    def unsettled(self) -> int:
        return len(self.bus._streams[subjects.STREAM_INBOX].queued)

    async def recovery(self) -> Recovery:
        term = await self.log.acquire("test", 60.0)
        assert term is not None
        return Recovery(
            self.log,
            term=lambda: term,
            now=lambda: datetime.now(UTC),
            new_id=uuid4,
            installation="test",
            ports=[20000],
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Until all that was said is settled."""

        async def keep(_: str, body: bytes) -> None:
            self.aside.append(body)

        await self.bus.subscribe(subjects.deadletter("recovery"), keep)
        recovery = await self.recovery()
        listening = asyncio.create_task(listen_forever(self.bus, recovery))
        try:
            yield
            async with asyncio.timeout(10):
                while self.unsettled():
                    await asyncio.sleep(0.001)
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def requests(self) -> list[Envelope]:
        return [
            envelope
            for envelope in await self.log.read()
            if isinstance(envelope.event, RequestReceived)
        ]


def request(workspace: WorkspaceName, *, actor: str = "test", **arguments: object) -> Envelope:
    event = RequestReceived(
        workspace=workspace, epoch=0, verb="pause", actor=actor, arguments=arguments
    )
    return Envelope(id=uuid4(), source="api", time=datetime.now(UTC), event=event)


def actors(envelopes: Iterable[Envelope]) -> list[str]:
    return [e.event.actor for e in envelopes if isinstance(e.event, RequestReceived)]


@fault(21)
async def test_an_event_that_a_decision_stumbles_over_is_kept_aside_and_the_rest_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_it_is = decider.decide

    def stumbling(state: State, event: Event, context: Context) -> Sequence[Event]:
        if event.workspace == ODD:
            raise OverflowError("more\nthan a date can hold" + "!" * 1_000)
        return as_it_is(state, event, context)

    monkeypatch.setattr(decider, "decide", stumbling)
    scene = Scene()
    await scene.say([request(GOOD, actor="a"), request(ODD), request(GOOD, actor="b")])
    async with scene.listening():
        pass
    assert len(scene.aside) == 1
    assert b'"odd"' in scene.aside[0]
    assert actors(await scene.requests()) == ["a", "b"]


async def test_what_is_delivered_together_is_recorded_together_and_in_order() -> None:
    scene = Scene()
    said = [request((GOOD, OTHER)[n % 2], actor=f"actor {n}") for n in range(100)]
    await scene.say(said)
    async with scene.listening():
        pass
    assert scene.log.together == [100]
    assert [fact.id for fact in await scene.requests()] == [fact.id for fact in said]
    refusals = [e for e in await scene.log.read() if e.event.type == "RequestRefused"]
    assert [e.causation for e in refusals] == [fact.id for fact in said], "each has its answer"


async def test_what_cannot_be_kept_holds_up_nothing_that_came_with_it() -> None:
    scene = Scene()
    unkeepable = request(GOOD, thing=object())
    recovery_hears = [request(GOOD, actor="a"), unkeepable, request(OTHER, actor="b")]
    recovery = await scene.recovery()
    assert list(await recovery.listen_all(recovery_hears)) == [unkeepable.id]
    assert actors(await scene.requests()) == ["a", "b"]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("trouble", [WrongVersionError, LogUnknownError])
async def test_an_append_that_was_refused_or_not_answered_is_settled_once(
    trouble: type[Exception], done: bool
) -> None:
    scene = Scene()
    scene.log.troubles = [trouble("as a test wants it")]
    scene.log.done_all_the_same = done
    said = [request(WorkspaceName(f"w{n % 3}"), actor=f"actor {n}") for n in range(10)]
    await scene.say(said)
    async with scene.listening():
        pass
    recorded = [fact.id for fact in await scene.requests()]
    assert recorded == [fact.id for fact in said]
    assert scene.aside == []


async def test_a_fact_that_comes_twice_in_one_delivery_is_one_fact() -> None:
    scene = Scene()
    once = request(GOOD)
    recovery = await scene.recovery()
    assert await recovery.listen_all([once, once]) == {}
    assert await recovery.listen_all([request(OTHER), once]) == {}
    assert len(await scene.requests()) == 2
