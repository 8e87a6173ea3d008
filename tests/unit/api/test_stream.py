"""Server-sent events, over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest

from services.api.adapters.server import listen, serve
from services.api.routes import create_app
from shared.events.recovery import WorkspacePaused
from shared.machines import WorkspaceName
from tests.unit.api.conftest import HEADERS, Stage
from tests.unit.api.tale import Tale

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Message:
    id: int
    event: str
    data: dict[str, object]


@asynccontextmanager
async def served(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = asyncio.create_task(serve(create_app(stage.front), sock))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=HEADERS) as http:
        yield http
    stage.front.follower.close()
    server.cancel()
    with suppress(asyncio.CancelledError):
        await server


async def messages(
    http: httpx.AsyncClient, count: int, path: str = "/v1/stream", **headers: str
) -> list[Message]:
    """The first ``count`` messages of a stream."""
    found: list[Message] = []
    fields: dict[str, str] = {}
    async with asyncio.timeout(10), http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" in fields:
                data = json.loads(fields["data"])
                found.append(Message(int(fields["id"]), fields["event"], data))
                fields = {}
            if len(found) == count:
                return found
    return found


async def test_a_stream_gives_the_log_from_a_position_on_and_then_what_comes(
    stage: Stage,
) -> None:
    tale = Tale().registered().standby_up()
    await stage.told(tale)
    async with served(stage) as http:
        reading = asyncio.create_task(messages(http, 4, "/v1/stream?after=0"))
        tale.tell(WorkspacePaused)
        await stage.told(tale)
        found = await reading
    assert [m.id for m in found] == [1, 2, 3, 4]
    assert found[-1].event == "WorkspacePaused"
    assert found[-1].data["type"] == "dumont.WorkspacePaused.v1"


async def test_a_client_that_reconnects_misses_none_and_hears_none_twice(stage: Stage) -> None:
    tale = Tale().protected()
    await stage.told(tale)
    head = await stage.log.head()
    async with served(stage) as http:
        first = await messages(http, 5, "/v1/stream?after=0")
        rest = await messages(http, head - 5, **{"Last-Event-ID": str(first[-1].id)})
    assert [m.id for m in (*first, *rest)] == list(range(1, head + 1))


async def test_without_a_position_a_stream_begins_now(stage: Stage) -> None:
    tale = Tale().registered()
    await stage.told(tale)
    async with served(stage) as http, http.stream("GET", "/v1/stream") as answer:
        assert answer.status_code == 200
        tale.tell(WorkspacePaused)
        await stage.told(tale)
        async with asyncio.timeout(10):
            lines = answer.aiter_lines()
            seen = [await anext(lines) for _ in range(3)]
    assert "id: 2" in seen


async def test_a_stream_can_be_narrowed_and_told_as_a_timeline(stage: Stage) -> None:
    await stage.told(Tale().protected())
    await stage.told(Tale(WorkspaceName("art")).registered())
    async with served(stage) as http:
        (told,) = await messages(
            http, 1, "/v1/stream?after=0&workspace=art&type=WorkspaceRegistered&view=timeline"
        )
    assert told.data["text"] == "workspace registered: /workspace, empty, endpoint port 20000"


async def test_open_streams_do_not_hold_up_the_end_of_the_service(stage: Stage) -> None:
    async with (
        asyncio.timeout(10),
        served(stage) as http,
        http.stream("GET", "/v1/stream") as answer,
    ):
        assert answer.status_code == 200
        stage.front.follower.close()
        assert [line async for line in answer.aiter_lines() if line] == []
