"""Compute Engine's HTTP API for instances and zone operations, true to its paths and bodies."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from simulator.faults import Faults
from simulator.gce.engine import PROVIDER, Engine, Vm
from simulator.gce.errors import EngineError, invalid, not_found
from simulator.gce.operations import Json, Operation
from simulator.gce.requests import ZONE, selects
from simulator.web import cut_the_answer

_LONGEST_WAIT = 120.0
_MOST_ROWS = 500


def gce_app(*, engine: Engine, faults: Faults) -> FastAPI:
    """The application that serves ``/compute/v1``."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(_Instances(engine, faults).routes())
    app.include_router(_Operations(engine, faults).routes())
    app.add_exception_handler(EngineError, _say_error)
    app.add_exception_handler(404, _say_no_route)
    return app


_ZONE = "/compute/v1/projects/{project}/zones/{zone}"


def _check_place(engine: Engine, project: str, zone: str | None = None) -> None:
    if project != engine.project:
        raise not_found(f"projects/{project}")
    if zone is not None and not ZONE.fullmatch(zone):
        raise invalid("zone", zone, "Unknown zone.")


class _Instances:
    """The routes of virtual machines."""

    def __init__(self, engine: Engine, faults: Faults) -> None:
        self._engine = engine
        self._faults = faults

    def routes(self) -> APIRouter:
        router = APIRouter()
        every = f"{_ZONE}/instances"
        one = f"{every}/{{name}}"
        router.add_api_route(every, self.insert, methods=["POST"])
        router.add_api_route(every, self.list, methods=["GET"])
        router.add_api_route(one, self.get, methods=["GET"])
        router.add_api_route(one, self.change, methods=["DELETE"])
        router.add_api_route(f"{one}/{{verb}}", self.change, methods=["POST"])
        aggregated = "/compute/v1/projects/{project}/aggregated/instances"
        router.add_api_route(aggregated, self.aggregated, methods=["GET"])
        return router

    async def insert(self, project: str, zone: str, request: Request) -> JSONResponse:
        _check_place(self._engine, project, zone)
        body = await _object(request)
        return self._once(request, lambda: self._engine.insert(zone, body))

    async def change(
        self, project: str, zone: str, name: str, request: Request, verb: str = "delete"
    ) -> JSONResponse:
        _check_place(self._engine, project, zone)
        body = await _object(request)
        return self._once(request, lambda: self._apply(verb, zone, name, body))

    def _apply(self, verb: str, zone: str, name: str, body: Json) -> Operation:
        engine = self._engine
        verbs: dict[str, Callable[[Vm], Operation]] = {
            "delete": engine.delete,
            "start": engine.start,
            "stop": engine.stop,
            "reset": engine.reset,
            "setMetadata": lambda vm: engine.set_metadata(vm, body),
            "setLabels": lambda vm: engine.set_labels(vm, body),
            "simulateMaintenanceEvent": engine.simulate_maintenance,
        }
        if verb not in verbs:
            raise not_found(f"{engine.path(zone, name)}/{verb}")
        return verbs[verb](engine.get(zone, name))

    def _once(self, request: Request, act: Callable[[], Operation]) -> JSONResponse:
        """Do it, unless the same request id did it before; then answer with that operation."""
        request_id = request.query_params.get("requestId", "")
        call = (request_id, request.method, request.url.path)
        operation = self._engine.operations.remembered(*call)
        if operation is None:
            operation = act()
            self._engine.operations.remember(operation, *call)
            creates = operation.row["operationType"] == "insert"
            if creates and self._faults.take("create-answer-lost", provider=PROVIDER):
                cut_the_answer(request.scope)
        return JSONResponse(operation.row)

    async def get(self, project: str, zone: str, name: str) -> JSONResponse:
        _check_place(self._engine, project, zone)
        return JSONResponse(self._engine.get(zone, name).row)

    async def list(self, project: str, zone: str, request: Request) -> JSONResponse:
        _check_place(self._engine, project, zone)
        rows = [vm.row for vm in self._engine.visible() if vm.zone == zone]
        return _page(request, "compute#instanceList", rows)

    async def aggregated(self, project: str, request: Request) -> JSONResponse:
        _check_place(self._engine, project)
        wanted = request.query_params.get("filter", "")
        items: dict[str, Json] = {"zones/us-central1-f": _nothing_in("zones/us-central1-f")}
        for vm in self._engine.visible():
            if selects(wanted, vm.row):
                found = items.setdefault(f"zones/{vm.zone}", {"instances": []})
                found.pop("warning", None)
                found.setdefault("instances", []).append(vm.row)
        body = {"kind": "compute#instanceAggregatedList", "id": "aggregated", "items": items}
        return JSONResponse(body)


class _Operations:
    """The routes of zone operations."""

    def __init__(self, engine: Engine, faults: Faults) -> None:
        self._engine = engine
        self._faults = faults

    def routes(self) -> APIRouter:
        router = APIRouter()
        every = f"{_ZONE}/operations"
        router.add_api_route(every, self.list, methods=["GET"])
        router.add_api_route(f"{every}/{{name}}", self.get, methods=["GET"])
        router.add_api_route(f"{every}/{{name}}/wait", self.wait, methods=["POST"])
        return router

    async def list(self, project: str, zone: str, request: Request) -> JSONResponse:
        _check_place(self._engine, project, zone)
        rows = [operation.row for operation in self._engine.operations.of_zone(zone)]
        return _page(request, "compute#operationList", rows)

    async def get(self, project: str, zone: str, name: str) -> JSONResponse:
        return JSONResponse(self._operation(project, zone, name).row)

    async def wait(self, project: str, zone: str, name: str) -> JSONResponse:
        operation = self._operation(project, zone, name)
        longest = 0.0 if self._faults.take("wait-returns-running") else _LONGEST_WAIT
        try:
            async with asyncio.timeout(longest):
                await operation.done.wait()
        except TimeoutError:
            pass
        return JSONResponse(operation.row)

    def _operation(self, project: str, zone: str, name: str) -> Operation:
        _check_place(self._engine, project, zone)
        operation = self._engine.operations.get(zone, name)
        if operation is None:
            raise not_found(f"projects/{project}/zones/{zone}/operations/{name}")
        return operation


def _nothing_in(scope: str) -> Json:
    text = f"There are no results for scope '{scope}' on this page."
    return {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": text}}


def _page(request: Request, kind: str, rows: list[Json]) -> JSONResponse:
    params = request.query_params
    found = [row for row in rows if selects(params.get("filter", ""), row)]
    try:
        begin = int(params.get("pageToken") or 0)
        most = min(int(params.get("maxResults") or _MOST_ROWS), _MOST_ROWS)
    except ValueError as error:
        raise invalid("pageToken", params.get("pageToken"), "Not a token.") from error
    body: dict[str, Any] = {"kind": kind, "id": request.url.path.removeprefix("/compute/v1/")}
    if found[begin:]:
        body["items"] = found[begin : begin + most]
    if begin + most < len(found):
        body["nextPageToken"] = str(begin + most)
    return JSONResponse(body)


async def _object(request: Request) -> Json:
    raw = await request.body()
    try:
        body = json.loads(raw) if raw else {}
    except ValueError as error:
        raise EngineError(400, "parseError", "Parse Error: the body is not JSON") from error
    if not isinstance(body, dict):
        raise EngineError(400, "parseError", "Parse Error: the body is not an object")
    return body


async def _say_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return JSONResponse(error.as_json(), error.status)


async def _say_no_route(request: Request, error: Exception) -> Response:
    return JSONResponse(not_found(request.url.path).as_json(), 404)
