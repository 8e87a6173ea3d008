"""The client of the api: its errors are lines for people, its retries double nothing."""

from collections.abc import AsyncIterator, Iterator

import pytest

from cli.client import Api, ApiError, sse_data
from cli.errors import CliError
from tests.unit.cli.conftest import Dumont
from tests.unit.cli.fake_api import Script, scripted_api

pytestmark = pytest.mark.anyio


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted_api() as running:
        yield running


async def test_a_problem_of_the_api_is_told_with_its_hint(script: Script) -> None:
    script.answer("GET /v1/workspaces/train", 404, {"detail": "no workspace 'train'", "hint": "x"})
    async with Api(script.url, "key") as api:
        with pytest.raises(ApiError) as refused:
            await api.workspace("train")
    assert str(refused.value) == "no workspace 'train'"
    assert (refused.value.status, refused.value.hint) == (404, "x")


async def test_the_key_travels_as_a_bearer_token(script: Script) -> None:
    script.answer("GET /v1/workspaces", 200, [])
    async with Api(script.url, "secret-key") as api:
        assert await api.workspaces() == []
    assert script.requests[0].headers["authorization"] == "Bearer secret-key"


async def test_a_request_that_was_not_answered_is_repeated_under_the_same_key(
    script: Script,
) -> None:
    script.answer("POST /v1/workspaces/train/failover", 503, {"detail": "not known to be taken"})
    script.answer("POST /v1/workspaces/train/failover", 202, {"id": "op", "status": "pending"})
    async with Api(script.url, "key") as api:
        assert (await api.request("train", "failover"))["id"] == "op"
    keys = {request.headers["idempotency-key"] for request in script.requests}
    assert len(script.requests) == 2
    assert len(keys) == 1


async def test_an_operation_is_followed_to_its_end(script: Script) -> None:
    script.answer("GET /v1/operations/op", 200, {"id": "op", "status": "pending"})
    script.answer("GET /v1/operations/op", 200, {"id": "op", "status": "refused", "reason": "no"})
    async with Api(script.url, "key") as api:
        ended = await api.settled({"id": "op", "status": "pending"})
    assert ended["status"] == "refused"


async def test_nobody_at_the_address_is_one_line() -> None:
    async with Api("http://127.0.0.1:1", "key") as api:
        with pytest.raises(CliError, match="does not answer"):
            await api.workspaces()


@pytest.mark.parametrize("body", ["<html>", "[]", '"text"'])
async def test_an_address_that_is_not_our_api_is_recognised(script: Script, body: str) -> None:
    script.answer("GET /v1/workspaces/train", 200, body)
    async with Api(script.url, "key") as api:
        with pytest.raises(CliError, match=r"our api|not JSON|unexpected"):
            await api.workspace("train")


async def test_the_timeline_is_read_to_its_end(script: Script) -> None:
    path = "GET /v1/workspaces/train/timeline"
    script.answer(path, 200, {"entries": [{"position": 1}, {"position": 4}], "next": 4})
    script.answer(path, 200, {"entries": [], "next": 7})  # a page may be empty and have a next
    script.answer(path, 200, {"entries": [{"position": 9}], "next": None})
    async with Api(script.url, "key") as api:
        pages = [page async for page in api.timeline_pages("train")]
    assert [entry["position"] for page in pages for entry in page] == [1, 4, 9]
    asked = [request.path.rpartition("after=")[2].partition("&")[0] for request in script.requests]
    assert asked == ["0", "4", "7"]


async def test_server_sent_events_are_put_together() -> None:
    async def lines() -> AsyncIterator[str]:
        for line in (": hello", "", "id: 7", "data: {", "data: }", "", "event: x", "data: 2", ""):
            yield line

    assert [data async for data in sse_data(lines())] == ["{\n}", "2"]


def test_status_as_json_is_what_the_api_said(
    dumont: Dumont, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answer("GET /v1/workspaces", 200, [{"name": "train", "phase": "SYNCING"}])
    monkeypatch.setenv("DUMONT_API_KEY", "key")
    result = dumont("--url", script.url, "status", "-o", "json")
    assert result.code == 0
    assert result.out == '[{"name": "train", "phase": "SYNCING"}]\n'


def test_a_refused_request_ends_with_1_and_the_reason(
    dumont: Dumont, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = {"id": "op", "status": "refused", "reason": "no generation", "hint": "wait"}
    script.answer("POST /v1/workspaces/train/failover", 202, operation)
    monkeypatch.setenv("DUMONT_API_KEY", "key")
    result = dumont("--url", script.url, "failover", "train", "--yes", "--reason", "test")
    assert result.code == 1
    assert result.err == "dumont: failover train: refused: no generation\n  wait\n"
    assert script.requests[0].body == {"reason": "test"}


def test_a_failover_with_an_old_copy_is_asked_for_in_so_many_words(
    dumont: Dumont, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answer("POST /v1/workspaces/train/failover", 202, {"id": "op", "status": "done"})
    monkeypatch.setenv("DUMONT_API_KEY", "key")
    dumont("--url", script.url, "failover", "train", "--yes", "--allow-data-loss")
    assert script.requests[0].body == {"allow_data_loss": True}
