"""A client of the api: one method a route, errors as one line with what to do about them.

Async, because the demo does many things at once; a verb of the command line wraps one use of
it in ``asyncio.run``. What comes back is the api's JSON, unchanged, so that ``-o json`` prints
exactly what the api said.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from cli.errors import CliError
from shared.clock import new_id

Json = dict[str, Any]

TIMEOUT = 15.0
TRIES = 3
PAGE = 1000
_RETRY_WAIT = 0.3
_OPERATION_POLL = 0.1
_STREAM_SILENCE_MAX = 60.0


class ApiError(CliError):
    """The api answered and said no. ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status


class Api:
    """``async with Api(url, key) as api: await api.workspace("demo")``.

    Every method raises ApiError when the api refuses and CliError when it does not answer.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    # --- reading -----------------------------------------------------------------------------

    async def workspaces(self) -> list[Json]:
        """The state of every workspace."""
        return items(await self._get("/v1/workspaces"), "workspaces")

    async def workspace(self, name: str) -> Json:
        """The state of one workspace."""
        return _object(await self._get(f"/v1/workspaces/{name}"))

    async def timeline_pages(self, name: str, *, after: int = 0) -> AsyncIterator[list[Json]]:
        """The timeline of one workspace after a position, page by page, oldest first."""
        async for page in self._pages(f"/v1/workspaces/{name}/timeline", "entries", after, {}):
            yield page

    async def event_pages(
        self, *, after: int = 0, workspace: str | None = None
    ) -> AsyncIterator[list[Json]]:
        """The log after a position as CloudEvents, page by page, oldest first."""
        only = {} if workspace is None else {"workspace": workspace}
        async for page in self._pages("/v1/events", "events", after, only):
            yield page

    async def operation(self, operation: str) -> Json:
        return _object(await self._get(f"/v1/operations/{operation}"))

    async def ready(self) -> Json:
        """What /readyz says, whether ready or not."""
        response = await self._send("GET", "/readyz")
        return _object(_json(response))

    async def stream(
        self, *, after: int | None = None, workspace: str | None = None, view: str = "events"
    ) -> AsyncIterator[Json]:
        """What is recorded after ``after`` (None: from now on), and then what comes.

        ``view`` is ``events`` for CloudEvents or ``timeline`` for its entries. Reconnects by
        itself and goes on where it was: nothing is missed, nothing repeated.
        """
        query = {"view": view} | ({} if workspace is None else {"workspace": workspace})
        position = after
        while True:
            try:
                async for event in self._stream_once(position, query):
                    position = int(event["position"])
                    yield event
            except httpx.TransportError:
                pass
            await asyncio.sleep(_RETRY_WAIT)

    # --- asking ------------------------------------------------------------------------------

    async def register(self, workspace: Mapping[str, object]) -> Json:
        return await self._post("/v1/workspaces", workspace)

    async def remove(self, name: str) -> Json:
        return await self._ask("DELETE", f"/v1/workspaces/{name}", None)

    async def request(
        self, name: str, verb: str, arguments: Mapping[str, object] | None = None
    ) -> Json:
        """Ask for ``verb``; returns the operation."""
        return await self._post(f"/v1/workspaces/{name}/{verb}", arguments or {})

    async def settled(self, operation: Json, *, timeout: float = 20.0) -> Json:
        """Wait until the operation ended: done, refused or failed. Raises CliError."""
        return await self._operation_until(
            operation, lambda now: now.get("status") != PENDING, timeout
        )

    async def recorded(self, operation: Json, *, timeout: float = 20.0) -> Json:
        """Wait until the log holds the request, and with it a refusal if there is one.

        Raises CliError.
        """
        return await self._operation_until(
            operation,
            lambda now: bool(now.get("recorded")) or now.get("status") != PENDING,
            timeout,
        )

    async def _operation_until(
        self, operation: Json, reached: Callable[[Json], bool], timeout: float
    ) -> Json:
        deadline = time.monotonic() + timeout
        while not reached(operation):
            if time.monotonic() > deadline:
                raise CliError(
                    f"operation {operation.get('id')} did not end within {timeout:.0f} s",
                    "it goes on: see dumont timeline",
                )
            await asyncio.sleep(_OPERATION_POLL)
            operation = await self.operation(str(operation["id"]))
        return operation

    # --- the wire ----------------------------------------------------------------------------

    async def _get(self, path: str, query: Mapping[str, str | int] | None = None) -> object:
        return _json(checked(await self._send("GET", path, params=query)))

    async def _post(self, path: str, body: Mapping[str, object]) -> Json:
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> Json:
        # One key for all tries: a request that was taken although no answer came is not doubled.
        headers = {"Idempotency-Key": str(new_id())}
        response = await self._send(method, path, json=body, headers=headers)
        return _object(_json(checked(response)))

    async def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        for attempt in range(1, TRIES + 1):
            try:
                response = await self._http.request(method, path, **arguments)
            except httpx.TransportError as error:
                if attempt == TRIES:
                    raise self._silent(error) from None
            else:
                if response.status_code != 503 or path == "/readyz" or attempt == TRIES:
                    return response
            await asyncio.sleep(_RETRY_WAIT * attempt)
        raise AssertionError("unreachable")

    def _silent(self, error: httpx.TransportError) -> CliError:
        what = str(error) or type(error).__name__
        return CliError(
            f"the api at {self.url} does not answer: {what}",
            "is the stack up? see: dumont doctor",
        )

    async def _pages(
        self, path: str, name: str, after: int, only: Mapping[str, str]
    ) -> AsyncIterator[list[Json]]:
        following: int | None = after
        while following is not None:
            page = _object(await self._get(path, {**only, "after": following, "limit": PAGE}))
            yield items(page, name)
            following = page.get("next")

    async def _stream_once(
        self, after: int | None, query: Mapping[str, str]
    ) -> AsyncIterator[Json]:
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        timeout = httpx.Timeout(TIMEOUT, read=_STREAM_SILENCE_MAX)
        request = self._http.stream(
            "GET", "/v1/stream", params=query, headers=headers, timeout=timeout
        )
        async with request as response:
            if response.is_error:
                await response.aread()
                checked(response)
            async for data in sse_data(response.aiter_lines()):
                yield _object(json.loads(data))


PENDING = "pending"


async def sse_data(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """The data of each server-sent event; comments and other fields are skipped."""
    data: list[str] = []
    async for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def items(answer: object, name: str) -> list[Json]:
    """The list in an answer: bare, or under ``name``."""
    found = answer.get(name) if isinstance(answer, dict) else answer
    if not isinstance(found, list):
        raise CliError(f"the api's answer holds no list of {name}", "is this address our api?")
    return found


def checked(response: httpx.Response) -> httpx.Response:
    """The same response when it is a success; its problem (RFC 9457) as ApiError otherwise."""
    if response.is_success:
        return response
    status = response.status_code
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    said = problem.get("detail") or problem.get("title") or f"the api answered {status}"
    hint = str(problem.get("hint") or "")
    if not hint or _FOR_PROGRAMS.search(hint):
        hint = HINTS.get(status, hint)
    raise ApiError(status, str(said), hint)


_FOR_PROGRAMS = re.compile(r"\b(GET|POST|Authorization)\b")
"""A hint that names an HTTP call helps nobody at a command line."""

HINTS = {
    401: "check the key: --key-file, DUMONT_API_KEY",
    403: "this key may not do that",
    404: "see what there is: dumont workspace list",
    503: "see what is missing: dumont doctor",
}


def _json(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        raise CliError(
            f"{response.url} answered something that is not JSON", "is this address our api?"
        ) from None


def _object(value: object) -> Json:
    if not isinstance(value, dict):
        raise CliError("the api answered something unexpected", "is this address our api?")
    return value
