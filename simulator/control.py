"""The control port: what only the owner of a simulated world may do and see.

No authentication: it listens on loopback. Machines are named by the id that the ledger shows, or
by their label.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from simulator import tree
from simulator.faults import KNOWN, Faults, UnknownFaultError
from simulator.gce.engine import PROVIDER as GCE
from simulator.gce.engine import Engine, Vm
from simulator.gce.errors import EngineError
from simulator.ledger import Ledger
from simulator.machine import BootError
from simulator.tree import PathError
from simulator.vast.contract import Contract
from simulator.vast.market import PROVIDER as VAST
from simulator.vast.market import Market, RefusedError

Json = dict[str, Any]


_STATUS: dict[type[Exception], int] = {
    RefusedError: 409,
    EngineError: 409,
    BootError: 500,
    PathError: 404,
    UnknownFaultError: 400,
    OSError: 409,
}


class ControlError(Exception):
    """The request cannot be done; ``status`` is that of the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def control_app(
    *,
    market: Market,
    engine: Engine,
    ledger: Ledger,
    faults: Faults,
    gce_ssh_port: int,
    clock: Callable[[], float],
) -> FastAPI:
    """The application of the control port."""
    app = FastAPI(title="dumont simulator: control", docs_url="/docs", redoc_url=None)
    world = _World(market, engine, gce_ssh_port)
    app.include_router(_Books(market, ledger, faults, clock).routes())
    app.include_router(_Machines(world, market, engine).routes())
    app.include_router(_Files(world).routes())
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _saying(status))
    app.add_exception_handler(ControlError, _say_control_error)
    return app


class _World:
    """Finds machines of both clouds."""

    def __init__(self, market: Market, engine: Engine, gce_ssh_port: int) -> None:
        self._market = market
        self._engine = engine
        self._gce_ssh_port = gce_ssh_port

    def all(self) -> list[Contract | Vm]:
        return [*self._market.contracts.values(), *self._engine.vms.values()]

    def find(self, id: str) -> Contract | Vm:
        """The machine of this id, or the newest of this label."""
        for machine in self.all():
            if str(machine.id) == id:
                return machine
        for machine in reversed(self.all()):
            if _label(machine) == id:
                return machine
        raise ControlError(404, f"no machine {id!r}: destroyed, or never rented here")

    def describe(self, machine: Contract | Vm) -> Json:
        common = {
            "id": str(machine.id),
            "label": _label(machine),
            "root": str(machine.machine.root),
            "powered": machine.machine.running,
        }
        if isinstance(machine, Contract):
            return common | {
                "provider": VAST,
                "kind": "gpu",
                "state": machine.actual,
                "intended": machine.intended,
                "ip": machine.address,
                "port": machine.port,
                "market_machine": str(machine.slot.machine_id),
                "bid": machine.bid,
                "min_bid": machine.floor,
            }
        return common | {
            "provider": GCE,
            "kind": "standby",
            "state": machine.status,
            "zone": machine.zone,
            "ip": machine.address,
            "port": self._gce_ssh_port,
            "market_machine": None,
        }


def _label(machine: Contract | Vm) -> str:
    return machine.label if isinstance(machine, Contract) else machine.name


class _Books:
    """The ledger, the account and the faults."""

    def __init__(
        self, market: Market, ledger: Ledger, faults: Faults, clock: Callable[[], float]
    ) -> None:
        self._market = market
        self._ledger = ledger
        self._faults = faults
        self._clock = clock

    def routes(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/ledger", self.ledger, methods=["GET"])
        router.add_api_route("/credit", self.credit, methods=["PUT"])
        router.add_api_route("/faults", self.arm, methods=["POST"])
        router.add_api_route("/faults", self.armed, methods=["GET"])
        router.add_api_route("/faults", self.disarm, methods=["DELETE"])
        return router

    async def ledger(self) -> JSONResponse:
        """What was billed so far."""
        return JSONResponse(self._ledger.report(self._clock()))

    async def credit(self, request: Request) -> JSONResponse:
        """Set the Vast account's credit: ``{"usd": 0}``; at zero every instance is stopped."""
        body = await _object(request)
        if not isinstance(body.get("usd"), int | float):
            raise ControlError(400, 'the body must be {"usd": number}')
        await self._market.set_credit(float(body["usd"]))
        return JSONResponse({"credit": self._market.credit})

    async def arm(self, request: Request) -> JSONResponse:
        """Arm a fault: ``{"name": ..., "count": n, ...details}``."""
        body = await _object(request)
        name, count = str(body.pop("name", "")), body.pop("count", None)
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ControlError(400, f"count must be a whole number from 1 up, not {count!r}")
        return JSONResponse(self._faults.arm(name, count, body).as_json(), 201)

    async def armed(self) -> JSONResponse:
        """The faults that can still happen, and all that there are."""
        faults = [fault.as_json() for fault in self._faults.armed()]
        return JSONResponse({"faults": faults, "known": dict(KNOWN)})

    async def disarm(self, name: str | None = None) -> JSONResponse:
        """Disarm the faults of one name, or all."""
        return JSONResponse({"disarmed": self._faults.disarm(name)})


class _Machines:
    """What can happen to a machine."""

    def __init__(self, world: _World, market: Market, engine: Engine) -> None:
        self._world = world
        self._market = market
        self._engine = engine

    def routes(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/machines", self.list, methods=["GET"])
        router.add_api_route("/machines/{id}", self.show, methods=["GET"])
        router.add_api_route("/machines/{id}/{happening}", self.happen, methods=["POST"])
        return router

    async def list(self) -> JSONResponse:
        """Every machine that is not destroyed."""
        return JSONResponse({"machines": [self._world.describe(m) for m in self._world.all()]})

    async def show(self, id: str) -> JSONResponse:
        """One machine."""
        return JSONResponse(self._world.describe(self._world.find(id)))

    async def happen(self, id: str, happening: str, request: Request) -> JSONResponse:
        """outbid, lose, exit, resume, reboot, kill-sshd, silence, speak, preempt or truncate."""
        machine, body = self._world.find(id), await _object(request)
        happenings: dict[str, Callable[[Contract | Vm, Json], Awaitable[None]]] = {
            "outbid": self._outbid,
            "lose": self._lose,
            "exit": self._exit,
            "resume": self._resume,
            "reboot": self._reboot,
            "kill-sshd": self._kill_sshd,
            "silence": self._silence,
            "speak": self._speak,
            "preempt": self._preempt,
            "truncate": self._truncate,
        }
        if happening not in happenings:
            raise ControlError(404, f"{happening!r} is not one of {', '.join(happenings)}")
        await happenings[happening](machine, body)
        return JSONResponse(self._world.describe(machine))

    async def _outbid(self, machine: Contract | Vm, body: Json) -> None:
        form = body.get("form", "A")
        if form not in ("A", "B"):
            raise ControlError(400, f'form must be "A" or "B", not {form!r}')
        await self._market.outbid(_contract(machine), form)

    async def _lose(self, machine: Contract | Vm, body: Json) -> None:
        if isinstance(machine, Contract):
            await self._market.lose(machine, str(body.get("status", "offline")))
        else:
            await self._engine.lose(machine)

    async def _exit(self, machine: Contract | Vm, body: Json) -> None:
        await self._market.exit(_contract(machine))

    async def _resume(self, machine: Contract | Vm, body: Json) -> None:
        if isinstance(machine, Contract):
            self._market.resume(machine)
        else:
            self._engine.resume(machine)

    async def _reboot(self, machine: Contract | Vm, body: Json) -> None:
        if not machine.machine.running:
            raise ControlError(409, f"machine {machine.id} has no power: nothing to reboot")
        if isinstance(machine, Contract):
            await self._market.reboot(machine)
        else:
            await self._engine.reboot(machine)

    async def _kill_sshd(self, machine: Contract | Vm, body: Json) -> None:
        machine.machine.kill_sshd()

    async def _silence(self, machine: Contract | Vm, body: Json) -> None:
        machine.machine.silence()

    async def _speak(self, machine: Contract | Vm, body: Json) -> None:
        machine.machine.speak()

    async def _preempt(self, machine: Contract | Vm, body: Json) -> None:
        if isinstance(machine, Contract):
            raise ControlError(409, "the GPU market outbids; only Compute Engine preempts")
        await self._engine.preempt(machine)

    async def _truncate(self, machine: Contract | Vm, body: Json) -> None:
        path, size = body.get("path"), body.get("bytes", 0)
        if not isinstance(path, str) or not isinstance(size, int) or size < 0:
            raise ControlError(400, 'the body must be {"path": text, "bytes": whole number}')
        tree.truncate(machine.machine.root, path, size)


def _contract(machine: Contract | Vm) -> Contract:
    if isinstance(machine, Contract):
        return machine
    raise ControlError(409, "this happens only on the GPU market; use preempt or lose")


class _Files:
    """A machine's files, also while it has no power."""

    def __init__(self, world: _World) -> None:
        self._world = world

    def routes(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/machines/{id}/tree", self.tree, methods=["GET"])
        router.add_api_route("/machines/{id}/file", self.read, methods=["GET"])
        router.add_api_route("/machines/{id}/file", self.write, methods=["PUT"])
        router.add_api_route("/machines/{id}/file", self.remove, methods=["DELETE"])
        return router

    async def tree(self, id: str, path: str) -> JSONResponse:
        """Every file under a directory, with its hash."""
        root = self._world.find(id).machine.root
        return JSONResponse({"files": await run_in_threadpool(tree.walk, root, path)})

    async def read(self, id: str, path: str) -> Response:
        """A file's bytes."""
        root = self._world.find(id).machine.root
        content = await run_in_threadpool(tree.read, root, path)
        return Response(content, media_type="application/octet-stream")

    async def write(self, id: str, path: str, request: Request) -> JSONResponse:
        """Make or replace a file."""
        root, content = self._world.find(id).machine.root, await request.body()
        await run_in_threadpool(tree.write, root, path, content)
        return JSONResponse({"bytes": len(content)})

    async def remove(self, id: str, path: str) -> JSONResponse:
        """Remove a file, a link or a directory."""
        root = self._world.find(id).machine.root
        await run_in_threadpool(tree.remove, root, path)
        return JSONResponse({})


async def _object(request: Request) -> Json:
    if not await request.body():
        return {}
    try:
        body = await request.json()
    except ValueError as error:
        raise ControlError(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ControlError(400, "the body must be a JSON object")
    return body


def _saying(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def say(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return say


async def _say_control_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ControlError)
    return JSONResponse({"error": str(error)}, error.status)
