"""Vast's HTTP API, true to its paths, statuses and bodies."""

import json
import secrets
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse

from simulator.faults import Faults
from simulator.query import QueryError
from simulator.vast import listing
from simulator.vast.access import ApiError, Gatekeeper, failure
from simulator.vast.contract import Contract, instance_row
from simulator.vast.market import PROVIDER, Market, RefusedError
from simulator.vast.order import OrderError, price_of, read_order
from simulator.vast.search import search
from simulator.web import cut_the_answer

Json = dict[str, Any]
_DONE: Json = {"success": True}


def vast_app(
    *,
    market: Market,
    gatekeeper: Gatekeeper,
    faults: Faults,
    clock: Callable[[], float],
    api_key: str,
) -> FastAPI:
    """The application that serves ``/api/v0`` and ``/api/v1``."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    offers = _Offers(market, faults, clock)
    instances = _Instances(market, clock)
    account = _Account(market, api_key)
    closed = [Depends(gatekeeper.admit)]
    app.include_router(offers.routes(), dependencies=closed)
    app.include_router(instances.routes(), dependencies=closed)
    app.include_router(account.routes(), dependencies=closed)
    app.include_router(instances.open_routes())
    app.add_exception_handler(ApiError, _say_api_error)
    app.add_exception_handler(RefusedError, _say_refused)
    app.add_exception_handler(OrderError, _say_order_error)
    app.add_exception_handler(QueryError, _say_query_error)
    app.add_exception_handler(RequestValidationError, _say_bad_path)
    app.add_exception_handler(404, _say_no_route)
    return app


class _Offers:
    """Searching and renting."""

    def __init__(self, market: Market, faults: Faults, clock: Callable[[], float]) -> None:
        self._market = market
        self._faults = faults
        self._clock = clock

    def routes(self) -> APIRouter:
        router = APIRouter(prefix="/api/v0")
        router.add_api_route("/bundles/", self.bundles, methods=["POST"])
        router.add_api_route("/search/asks/", self.search_asks, methods=["PUT"])
        router.add_api_route("/asks/{ask_id}/", self.accept, methods=["PUT"])
        return router

    async def bundles(self, request: Request) -> JSONResponse:
        return self._search(await _object(request))

    async def search_asks(self, request: Request) -> JSONResponse:
        body = await _object(request)
        return self._search(body.get("q", {}))

    def _search(self, body: Json) -> JSONResponse:
        rows = search(self._market.slots, body, self._clock())
        return JSONResponse({"offers": rows, "truncated": False})

    async def accept(self, ask_id: int, request: Request) -> JSONResponse:
        contract = await self._market.rent(ask_id, read_order(await _object(request)))
        if self._faults.take("create-answer-lost", provider=PROVIDER):
            cut_the_answer(request.scope)
        answer = {"new_contract": contract.id, "instance_api_key": contract.api_key}
        return JSONResponse(_DONE | answer)


class _Instances:
    """Everything that begins with ``/instances/``."""

    def __init__(self, market: Market, clock: Callable[[], float]) -> None:
        self._market = market
        self._clock = clock
        self._logs: dict[str, int] = {}

    def routes(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/api/v1/instances/", self.list, methods=["GET"])
        router.add_api_route("/api/v0/instances/", self.gone_list, methods=["GET"])
        router.add_api_route("/api/v0/instances/", self.bulk_state, methods=["PUT"])
        router.add_api_route("/api/v0/instances/", self.bulk_destroy, methods=["DELETE"])
        router.add_api_route("/api/v0/instances/filters/", self.filters, methods=["GET"])
        for path, action in (
            ("bid_price", self.change_bid),
            ("reboot", self.reboot),
            ("request_logs", self.request_logs),
        ):
            router.add_api_route(f"/api/v0/instances/{path}/{{id}}/", action, methods=["PUT"])
        one = "/api/v0/instances/{id}/"
        router.add_api_route(one, self.show, methods=["GET"])
        router.add_api_route(one, self.change, methods=["PUT"])
        router.add_api_route(one, self.destroy, methods=["DELETE"])
        router.add_api_route(f"{one}ssh/", self.attach_key, methods=["POST"])
        router.add_api_route(f"{one}ssh/", self.list_keys, methods=["GET"])
        router.add_api_route(f"{one}ssh/{{key_id}}/", self.detach_key, methods=["DELETE"])
        return router

    def open_routes(self) -> APIRouter:
        """What is asked without a key."""
        router = APIRouter()
        router.add_api_route("/api/v0/gpu_names/unique/", self.gpu_names, methods=["GET"])
        router.add_api_route("/logs/{token}", self.logs, methods=["GET"])
        return router

    async def list(self, request: Request) -> JSONResponse:
        contracts = self._market.visible(self._market.contracts.values())
        rows = [instance_row(contract, self._clock()) for contract in contracts]
        return JSONResponse(listing.page(rows, request.query_params))

    async def gone_list(self) -> JSONResponse:
        text = "/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead."
        raise failure(410, "deprecated_endpoint", text)

    async def filters(self) -> JSONResponse:
        rows = [instance_row(one, self._clock()) for one in self._market.contracts.values()]
        names = ("actual_status", "verification", "gpu_name")
        combinations = {tuple(row[name] for name in names) for row in rows}
        found = [dict(zip(names, values, strict=True)) for values in combinations]
        return JSONResponse({"filters": found})

    async def gpu_names(self) -> JSONResponse:
        return JSONResponse({"gpu_names": sorted({slot.gpu_name for slot in self._market.slots})})

    async def show(self, id: int) -> JSONResponse:
        contract = self._market.get(id)
        row = None if contract is None else instance_row(contract, self._clock())
        return JSONResponse({"instances": row})

    async def change(self, id: int, request: Request) -> JSONResponse:
        contract, body = self._contract(id), await _object(request)
        if "label" in body:
            label = str(body["label"] or "")
            if len(label) > 1024:
                raise failure(400, "label_too_long", "a label has at most 1024 characters")
            self._market.relabel(contract, label)
        if "state" in body:
            await self._enter(contract, body["state"])
        return JSONResponse(_DONE)

    async def _enter(self, contract: Contract, state: object) -> None:
        if state == "running":
            await self._market.start(contract)
        elif state == "stopped":
            await self._market.stop(contract)
        else:
            raise failure(400, "invalid_args", f"state {state!r} is not running or stopped")

    async def bulk_state(self, request: Request) -> JSONResponse:
        body = await _object(request)
        for contract in [self._contract(id) for id in body.get("ids", [])]:
            await self._enter(contract, body.get("state"))
        return JSONResponse(_DONE)

    async def bulk_destroy(self, request: Request) -> JSONResponse:
        body = await _object(request)
        for contract in [self._contract(id) for id in body.get("instance_ids", [])]:
            await self._market.destroy(contract)
        return JSONResponse(_DONE)

    async def change_bid(self, id: int, request: Request) -> JSONResponse:
        contract, body = self._contract(id), await _object(request)
        price = body.get("price")
        if price is not None:
            most = 32 * contract.slot.num_gpus
            if not 0.001 <= price_of(price) <= most:
                raise failure(400, "invalid_price", f"Please set a bid price <= {most}.")
        await self._market.change_bid(contract, price)
        return JSONResponse(_DONE)

    async def reboot(self, id: int) -> JSONResponse:
        await self._market.reboot(self._contract(id))
        return JSONResponse(_DONE)

    async def destroy(self, id: int) -> JSONResponse:
        await self._market.destroy(self._contract(id))
        return JSONResponse(_DONE)

    async def attach_key(self, id: int, request: Request) -> JSONResponse:
        contract = self._contract(id)
        text = _public_key(await _object(request))
        key_id = self._market.attach_key(contract, text)
        return JSONResponse(_DONE | {"key": _key_row(key_id, text, self._clock())})

    async def list_keys(self, id: int) -> JSONResponse:
        keys = self._contract(id).keys
        rows = [_key_row(key_id, text, self._clock()) for key_id, text in keys.items()]
        return JSONResponse(_DONE | {"ssh_keys": json.dumps(rows)})

    async def detach_key(self, id: int, key_id: int) -> JSONResponse:
        contract = self._contract(id)
        if key_id not in contract.keys:
            raise failure(400, "no_ssh_key", "no such ssh key on the instance")
        self._market.detach_key(contract, key_id)
        return JSONResponse(_DONE)

    async def request_logs(self, id: int, request: Request) -> JSONResponse:
        self._contract(id)
        token = secrets.token_hex(8)
        self._logs[token] = id
        url = f"{str(request.base_url).rstrip('/')}/logs/{token}"
        return JSONResponse(_DONE | {"result_url": url, "msg": "the log is on its way"})

    async def logs(self, token: str) -> PlainTextResponse:
        contract = self._market.contracts.get(self._logs.get(token, 0))
        if contract is None or not contract.machine.console.exists():
            return PlainTextResponse("", status_code=404)
        return PlainTextResponse(contract.machine.console.read_text(errors="replace"))

    def _contract(self, id: int) -> Contract:
        contract = self._market.contracts.get(id)
        if contract is None:
            raise failure(404, "no_such_instance", f"Instance {id} not found.")
        return contract


class _Account:
    """The user and the account's public keys."""

    def __init__(self, market: Market, api_key: str) -> None:
        self._market = market
        self._api_key = api_key

    def routes(self) -> APIRouter:
        router = APIRouter(prefix="/api/v0")
        router.add_api_route("/users/current", self.user, methods=["GET"])
        router.add_api_route("/users/current/", self.user, methods=["GET"])
        router.add_api_route("/ssh/", self.list_keys, methods=["GET"])
        router.add_api_route("/ssh/", self.add_key, methods=["POST"])
        router.add_api_route("/ssh/{key_id}/", self.update_key, methods=["PUT"])
        router.add_api_route("/ssh/{key_id}/", self.delete_key, methods=["DELETE"])
        return router

    async def user(self) -> JSONResponse:
        credit = self._market.credit
        return JSONResponse(
            {
                "id": 1,
                "email": "tenant@example.com",
                "credit": credit,
                "balance": 0.0,
                "balance_threshold": 0.0,
                "ssh_key": next(iter(self._market.keys.values()), None),
                "host_agreement_accepted": False,
                "api_key": self._api_key,
            }
        )

    async def list_keys(self) -> JSONResponse:
        return JSONResponse([_key_row(id, text, 0.0) for id, text in self._market.keys.items()])

    async def add_key(self, request: Request) -> JSONResponse:
        text = _public_key(await _object(request))
        key_id = self._market.add_key(text)
        return JSONResponse(_DONE | {"key": _key_row(key_id, text, 0.0)})

    async def update_key(self, key_id: int, request: Request) -> JSONResponse:
        self._known(key_id)
        self._market.keys[key_id] = _public_key(await _object(request))
        return JSONResponse(_DONE)

    async def delete_key(self, key_id: int) -> JSONResponse:
        self._known(key_id)
        del self._market.keys[key_id]
        return JSONResponse(_DONE)

    def _known(self, key_id: int) -> None:
        if key_id not in self._market.keys:
            raise failure(400, "no_ssh_key", f"no ssh key {key_id}")


def _key_row(id: int, text: str, created_at: float) -> Json:
    return {
        "id": id,
        "user_id": 1,
        "public_key": text,
        "key": text,
        "created_at": created_at,
        "deleted_at": None,
    }


def _public_key(body: Json) -> str:
    text = body.get("ssh_key")
    if not isinstance(text, str) or len(text.split()) < 2 or "\n" in text.strip():
        raise failure(400, "no_ssh_key", "ssh_key must be the text of one public key")
    return text.strip()


async def _object(request: Request) -> Json:
    raw = await request.body()
    try:
        body = json.loads(raw) if raw else {}
    except ValueError as error:
        raise failure(400, "invalid_request", "Invalid json body") from error
    if not isinstance(body, dict):
        raise failure(400, "invalid_request", "Invalid json body: not an object")
    return body


async def _say_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    if isinstance(error.body, str):
        return PlainTextResponse(error.body, error.status, error.headers)
    return JSONResponse(error.body, error.status, error.headers)


async def _say_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    body: Json = {"success": False, "error": error.code, "msg": str(error)}
    if error.contract is not None:
        body["new_contract"] = error.contract
    return JSONResponse(body, error.status)


async def _say_order_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OrderError)
    return JSONResponse({"success": False, "error": error.code, "msg": str(error)}, 400)


async def _say_query_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"success": False, "error": "invalid_request", "msg": str(error)}, 400)


async def _say_bad_path(request: Request, error: Exception) -> Response:
    text = f"error 400/3471: Invalid args: {request.url.path} does not name a number"
    return JSONResponse({"success": False, "error": "invalid_args", "msg": text}, 400)


async def _say_no_route(request: Request, error: Exception) -> Response:
    text = f"no such endpoint: {request.method} {request.url.path}"
    return JSONResponse({"success": False, "error": "no_such_endpoint", "msg": text}, 404)
