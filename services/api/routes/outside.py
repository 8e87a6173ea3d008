"""What needs no key: is it alive, can it answer, and its numbers for Prometheus."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from services.api.adapters import asyncapi
from services.api.adapters.pulses import SERVICES
from services.api.domain.board import phases
from services.api.domain.views import WorkspaceView
from services.api.ports import BusError
from services.api.routes.front import AFront, Front
from services.api.schemas import VERSION, ReadyShown
from services.api.service import exported_head, installation
from shared.patience import Wait

router = APIRouter(tags=["operation"])


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """200 as long as this process serves at all."""
    return "ok\n"


@router.get("/readyz", response_model=ReadyShown, responses={503: {"model": ReadyShown}})
async def readyz(front: AFront) -> Response:
    """200 when log and bus answer, the log has been read to its end, and every service acts.

    ``waits`` says who waits for what, why and how long: all of it ends by itself when what is
    waited for comes back, but for an event log that is an old copy.

    ``not_configured`` lists parts without a key or address: nothing is wrong with the service.
    """
    ready = await _readiness(front)
    status = HTTPStatus.OK if ready["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(ready, status_code=status)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(front: AFront) -> Response:
    """Numbers in the text format of Prometheus."""
    text = "\n".join([*_metrics(front), ""])
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


@router.get("/asyncapi.json")
async def asyncapi_document() -> dict[str, Any]:
    """Every event of the log as an AsyncAPI 3 document, for those who listen on the bus."""
    return asyncapi.document(VERSION)


async def _readiness(front: Front) -> dict[str, Any]:
    follower = front.follower
    try:
        system = await installation(front.bus) if front.bus.connected else None
        log_head = await exported_head(front.bus) if front.bus.connected else None
        bus = front.bus.connected
    except BusError:
        system, log_head, bus = None, None, False
    parts = system.configured if system else None
    acting = {service: front.pulses.acts(service) for service in SERVICES}
    return {
        "ready": bus and follower.answering and follower.caught_up and all(acting.values()),
        "log": follower.answering,
        "bus": bus,
        "caught_up": follower.caught_up,
        "acting": acting,
        "waits": _waits(front),
        "position": follower.board.position,
        "log_head": log_head,
        "configured": parts,
        "not_configured": sorted(name for name, there in (parts or {}).items() if not there),
        "ssh_public_key": system.ssh_public_key if system else None,
    }


def _waits(front: Front) -> list[dict[str, Any]]:
    """The longest wait of each service for each thing, whichever of its processes waits."""
    own = [("api", wait) for wait in front.waits.current()]
    longest: dict[tuple[str, str], Wait] = {}
    for service, wait in sorted([*own, *front.pulses.waits()], key=lambda said: said[1].since):
        longest.setdefault((service, wait.what), wait)
    return [
        {
            "service": service,
            "what": wait.what,
            "reason": wait.reason,
            "seconds": round((front.now() - wait.since).total_seconds(), 1),
        }
        for (service, _), wait in longest.items()
    ]


def _metrics(front: Front) -> Iterable[str]:
    board = front.follower.board
    views = board.workspaces()
    yield from _gauge("dumont_log_position", "position of the log that the api has folded")
    yield f"dumont_log_position {board.position}"
    yield from _gauge("dumont_log_answers", "whether the log answered when last asked")
    yield f"dumont_log_answers {int(front.follower.answering)}"
    yield from _gauge("dumont_bus_connected", "whether the bus is connected")
    yield f"dumont_bus_connected {int(front.bus.connected)}"
    yield from _gauge("dumont_service_acts", "whether the service was heard to act lately")
    for service in SERVICES:
        yield f'dumont_service_acts{{service="{service}"}} {int(front.pulses.acts(service))}'
    yield from _gauge("dumont_wait_seconds", "for how long a service waits for something")
    for wait in _waits(front):
        labels = f'service="{wait["service"]}",what="{wait["what"]}"'
        yield f"dumont_wait_seconds{{{labels}}} {wait['seconds']}"
    yield from _gauge("dumont_workspaces", "workspaces by phase")
    for phase, number in phases(views).items():
        yield f'dumont_workspaces{{phase="{phase.value}"}} {number}'
    for name, about, value in _PER_WORKSPACE:
        yield from _gauge(name, about)
        for view in views:
            yield f'{name}{{workspace="{view.name}"}} {value(front, view)}'


def _gauge(name: str, about: str) -> Iterable[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} gauge"


def _lag_seconds(front: Front, view: WorkspaceView) -> float | str:
    seconds = front.show(view)["lag"]["seconds"]
    return "NaN" if seconds is None else float(seconds)


_PER_WORKSPACE = (
    ("dumont_epoch", "changes of primary so far", lambda _, view: view.epoch),
    ("dumont_lag_seconds", "what the last seconds would lose, at most", _lag_seconds),
    ("dumont_sync_count", "generations sealed", lambda _, view: view.sync_count),
    (
        "dumont_primary_failures",
        "failed checks of the primary in a row",
        lambda _, view: view.primary.failures if view.primary else 0,
    ),
    ("dumont_degraded", "1 when less protected", lambda _, view: int(view.degraded is not None)),
    ("dumont_paused", "1 when paused", lambda _, view: int(view.paused is not None)),
    (
        "dumont_price_per_hour",
        "US dollars an hour for the machines now",
        lambda front, view: front.show(view)["price_per_hour"],
    ),
    (
        "dumont_double_billed_seconds_total",
        "seconds with two GPUs billed for the workspace at once; the goal is 0",
        lambda front, view: front.show(view)["double_billed_seconds"],
    ),
)
