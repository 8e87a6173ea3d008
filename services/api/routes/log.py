"""``/v1/events``, ``/v1/stream`` and ``/v1/operations``: the log itself, and requests in it."""

import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.api.domain import operations
from services.api.domain.board import line
from services.api.ports import LogUnknownError
from services.api.routes.front import AFront, Front
from services.api.routes.problems import ProblemError
from services.api.schemas import EventsShown, OperationShown
from shared.codec import to_cloudevent
from shared.envelope import Envelope
from shared.events import EVENTS
from shared.machines import WorkspaceName

PAGE_MAX = 1_000
SCANNED_MAX = 10_000
"""How many events one filtered page looks at before it answers with what it has."""
STREAM_PAGE = 200
STREAM_WAIT = 30.0

router = APIRouter()

TypeName = Annotated[
    str | None,
    Query(alias="type", description="only this event, such as FailoverCompleted"),
]
Workspace = Annotated[str | None, Query(description="only this workspace")]


@router.get("/events", tags=["events"], response_model=EventsShown)
async def list_events(
    *,
    front: AFront,
    after: Annotated[int, Query(ge=0)] = 0,
    type_: TypeName = None,
    workspace: Workspace = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
) -> Response:
    """Recorded events as CloudEvents, in log order. Pages by position: follow ``Link``.

    A filtered page may be short, even empty, and still have a next one.
    """
    wanted = _event_type(type_)
    found, reached = await _scan(front, after, wanted, workspace, limit)
    more = reached < front.follower.board.position
    headers = {}
    if more:
        filters = f"&type={wanted}" if wanted else ""
        filters += f"&workspace={workspace}" if workspace else ""
        url = f"/v1/events?after={reached}&limit={limit}{filters}"
        headers["Link"] = f'<{url}>; rel="next"'
    events = [to_cloudevent(envelope) for envelope in found]
    # As on the bus, to the byte: no model in between spells them anew.
    body = {"events": events, "next": reached if more else None}
    return JSONResponse(body, headers=headers)


@router.get("/stream", tags=["events"], response_class=EventSourceResponse)
async def stream(
    *,
    front: AFront,
    after: Annotated[int | None, Query(ge=0, description="default: from now on")] = None,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
    type_: TypeName = None,
    workspace: Workspace = None,
    view: Annotated[str, Query(pattern="^(events|timeline)$")] = "events",
) -> AsyncIterator[ServerSentEvent]:
    """Recorded events as they come, each with its position as id.

    A client that reconnects with ``Last-Event-ID`` misses none and hears none twice. With
    ``view=timeline`` each is one line of a timeline instead of a CloudEvent.
    """
    wanted = _event_type(type_)
    position = last_event_id if last_event_id is not None else after
    if position is None:
        position = front.follower.board.position
    while not front.follower.closed:
        try:
            page = await front.follower.events(after=position, limit=STREAM_PAGE)
        except LogUnknownError:
            page = []  # the client is told when the log speaks again
        for envelope in page:
            position = envelope.position or position
            if _fits(envelope, wanted, workspace):
                yield _message(envelope, view)
        if not page:
            await front.follower.change(STREAM_WAIT)


@router.get("/operations/{identity}", tags=["operations"], response_model=OperationShown)
async def show_operation(front: AFront, identity: UUID) -> dict[str, Any]:
    """What became of a request."""
    operation = front.requests.operation(identity)
    if operation is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "unknown-operation",
            f"there is no operation {identity}",
            hint="only the newest 10,000 are kept at hand; older ones are in the timeline",
        )
    return operations.as_json(operation)


def _event_type(name: str | None) -> str | None:
    """The bare type of ``FailoverCompleted`` or ``dumont.FailoverCompleted.v1``."""
    if name is None:
        return None
    bare = name.removeprefix("dumont.").split(".")[0]
    if bare not in EVENTS:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid",
            f"there is no event type {name!r}",
            hint=f"known are {', '.join(sorted(EVENTS))}",
        )
    return bare


async def _scan(
    front: Front, after: int, wanted: str | None, workspace: str | None, limit: int
) -> tuple[list[Envelope], int]:
    """Up to ``limit`` fitting events, and the position that was looked at last."""
    found: list[Envelope] = []
    scanned, reached = 0, after
    while scanned < SCANNED_MAX:
        page = await _page(front, reached, workspace)
        for envelope in page:
            reached = envelope.position or reached
            if _fits(envelope, wanted, workspace):
                found.append(envelope)
            if len(found) == limit:
                return found, reached
        scanned += len(page)
        if len(page) < PAGE_MAX:
            return found, max(reached, front.follower.board.position)
    return found, reached


async def _page(front: Front, after: int, workspace: str | None) -> list[Envelope]:
    if workspace is None:
        return await front.follower.events(after=after, limit=PAGE_MAX)
    return await front.follower.timeline(WorkspaceName(workspace), after=after, limit=PAGE_MAX)


def _fits(envelope: Envelope, wanted: str | None, workspace: str | None) -> bool:
    event = envelope.event
    return (wanted is None or event.type == wanted) and (
        workspace is None or event.workspace == workspace
    )


def _message(envelope: Envelope, view: str) -> ServerSentEvent:
    body = line(envelope) if view == "timeline" else to_cloudevent(envelope)
    return ServerSentEvent(
        raw_data=json.dumps(body, separators=(",", ":")),
        event=envelope.event.type,
        id=str(envelope.position),
    )
