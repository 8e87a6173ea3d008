"""``/v1/workspaces``: what is protected, how it is, what happened to it, and what to do to it."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse

from services.api.domain import operations
from services.api.domain.board import line
from services.api.domain.operations import Operation, Outcome
from services.api.domain.presentation import generation_json
from services.api.domain.views import Phase, WorkspaceView
from services.api.routes.front import AFront, AnAsker, Asker, AWorkspace, Front
from services.api.routes.problems import ProblemError
from services.api.schemas import (
    FailoverRequest,
    GenerationsShown,
    OperationShown,
    Problem,
    RecoveryShown,
    Registration,
    Request,
    TimelineShown,
    WorkspaceShown,
    WorkspacesShown,
)
from services.api.service import KeyReusedError, NotTakenError
from shared.machines import WorkspaceName

REGISTERED_WITHIN = 5.0
"""How long a registration is awaited before it is answered as under way."""
PAGE_MAX = 1_000

router = APIRouter(prefix="/workspaces", tags=["workspaces"])

After = Annotated[int, Query(ge=0, description="the position after which to begin")]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
TAKEN: dict[int | str, dict[str, Any]] = {
    202: {"model": OperationShown, "description": "taken; Location is the operation"},
    503: {"model": Problem, "description": "not confirmed; `taken` says what is known"},
}


# --- reading -------------------------------------------------------------------------------------


@router.get("", response_model=WorkspacesShown)
async def list_workspaces(front: AFront) -> dict[str, Any]:
    """All workspaces, by name. A removed one stays until its machines were seen to be gone."""
    return {"workspaces": [front.show(view) for view in front.follower.board.workspaces()]}


@router.get("/{name}", response_model=WorkspaceShown)
async def show_workspace(front: AFront, view: AWorkspace) -> dict[str, Any]:
    """The state of one workspace: a fold of the log up to its ``position``."""
    return front.show(view)


@router.get("/{name}/recovery", response_model=RecoveryShown | None)
async def show_recovery(front: AFront, view: AWorkspace) -> Any:
    """The way back onto a GPU, null when none is under way."""
    return front.show(view)["recovery"]


@router.get("/{name}/timeline", response_model=TimelineShown)
async def show_timeline(
    front: AFront, view: AWorkspace, response: Response, after: After = 0, limit: Limit = 100
) -> dict[str, Any]:
    """What happened, oldest first, a sentence each. Pages by position: follow ``Link``."""
    found = await front.follower.timeline(view.name, after=after, limit=limit)
    entries = [line(envelope) for envelope in found]
    more = len(entries) == limit and entries[-1]["position"] < view.position
    following = entries[-1]["position"] if more else None
    if following is not None:
        url = f"/v1/workspaces/{view.name}/timeline?after={following}&limit={limit}"
        response.headers["Link"] = f'<{url}>; rel="next"'
    return {"workspace": view.name, "entries": entries, "next": following}


@router.get("/{name}/generations", response_model=GenerationsShown)
async def show_generations(front: AFront, view: AWorkspace) -> dict[str, Any]:
    """The sealed copies that the log tells of, oldest first."""
    sealed = front.follower.board.generations(view.name)
    return {"workspace": view.name, "generations": [generation_json(one) for one in sealed]}


# --- asking --------------------------------------------------------------------------------------


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    response_model=WorkspaceShown,
    responses={409: {"model": Problem, "description": "refused, with the reason"}, **TAKEN},
)
async def register(front: AFront, who: AnAsker, body: Registration) -> Response | dict[str, Any]:
    """Protect a workspace. 201 with its state once registered, 202 while that is under way."""
    name = WorkspaceName(body.name)
    _refuse_taken_name(front, name, who)
    operation = await _submit(front, who, "register", name, body.arguments())
    await front.follower.until(lambda board: _ended(front, operation), REGISTERED_WITHIN)
    operation = front.requests.operation(operation.id) or operation
    if operation.outcome is Outcome.REFUSED:
        raise ProblemError(HTTPStatus.CONFLICT, "refused", operation.reason, hint=operation.hint)
    view = front.follower.board.workspace(name)
    if operation.outcome is Outcome.PENDING or view is None:
        return _taken(operation)
    headers = {"Location": f"/v1/workspaces/{name}"}
    return JSONResponse(front.show(view), status_code=HTTPStatus.CREATED, headers=headers)


@router.delete("/{name}", status_code=HTTPStatus.ACCEPTED, response_model=OperationShown)
async def remove(front: AFront, who: AnAsker, view: AWorkspace) -> Response:
    """Give a workspace up: its rented machines are destroyed, an adopted GPU is left as it is."""
    return await _ask(front, who, view, "remove", "")


def _verb(verb: str, summary: str) -> None:
    """Declare ``POST /workspaces/{name}/VERB``: a request that recovery answers in the log."""

    @router.post(
        f"/{{name}}/{verb}",
        name=verb,
        operation_id=verb,
        summary=summary,
        status_code=HTTPStatus.ACCEPTED,
        response_model=OperationShown,
        responses={503: TAKEN[503]},
    )
    async def endpoint(
        front: AFront,
        who: AnAsker,
        view: AWorkspace,
        body: Annotated[Request | None, Body()] = None,
    ) -> Response:
        return await _ask(front, who, view, verb, body.reason if body else "")


@router.post(
    "/{name}/failover",
    status_code=HTTPStatus.ACCEPTED,
    operation_id="failover",
    response_model=OperationShown,
    responses={503: TAKEN[503]},
)
async def failover(
    front: AFront,
    who: AnAsker,
    view: AWorkspace,
    body: Annotated[FailoverRequest | None, Body()] = None,
) -> Response:
    """Make the standby the primary now, whatever the GPU does."""
    asked = body or FailoverRequest()
    more: dict[str, object] = {"allow_data_loss": True} if asked.allow_data_loss else {}
    if asked.before is not None:
        more["before"] = asked.before.isoformat()
    return await _ask(front, who, view, "failover", asked.reason, **more)


for _name, _summary in {
    "recover": "Look for a GPU and go back to it",
    "failback": "Go back to the GPU that is being brought up",
    "pause": "Turn automatic failover and recovery off",
    "resume": "Turn automatic failover and recovery on again",
    "accept": "Say that a source that shrank is right: the next sync may seal it",
    "uploaded": "Say that the first data is all there",
}.items():
    _verb(_name, _summary)


async def _ask(
    front: Front, who: Asker, view: WorkspaceView, verb: str, reason: str, **more: object
) -> Response:
    if view.phase is Phase.REMOVED:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "removed",
            f"workspace {view.name!r} was removed",
            hint="its timeline stays readable; register another name",
        )
    arguments = {**({"reason": reason} if reason else {}), **more}
    return _taken(await _submit(front, who, verb, view.name, arguments))


async def _submit(
    front: Front, who: Asker, verb: str, name: WorkspaceName, arguments: dict[str, Any]
) -> Operation:
    try:
        return await front.requests.submit(verb, name, arguments, actor=who.actor, key=who.key)
    except NotTakenError as error:
        raise _not_taken(error, who) from None
    except KeyReusedError as error:
        earlier = error.earlier
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "key-reused",
            f"this Idempotency-Key belongs to {earlier.verb} of {earlier.workspace!r}",
            hint="take a new key for a new request",
            operation=f"/v1/operations/{earlier.id}",
        ) from None


def _not_taken(error: NotTakenError, who: Asker) -> ProblemError:
    if not error.sent:
        detail = "the bus is not connected: the request was not taken"
        hint = "ask again in a moment; /readyz says when the bus is back"
    else:
        again = "the same Idempotency-Key" if who.key else "an Idempotency-Key from now on"
        detail = "the bus did not confirm: the request may have been taken or not"
        hint = f"look at the operation first, or ask again with {again}"
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "not-confirmed",
        detail,
        hint=hint,
        headers={"Retry-After": "2"},
        taken=None if error.sent else False,
        operation=f"/v1/operations/{error.identity}",
    )


def _taken(operation: Operation) -> JSONResponse:
    return JSONResponse(
        operations.as_json(operation),
        status_code=HTTPStatus.ACCEPTED,
        headers={"Location": f"/v1/operations/{operation.id}"},
    )


def _ended(front: Front, operation: Operation) -> bool:
    now = front.requests.operation(operation.id)
    return now is not None and not now.open


def _refuse_taken_name(front: Front, name: WorkspaceName, who: Asker) -> None:
    """A name that is in use is refused here, unless this may be a repeat of its registration."""
    if who.key is None and front.follower.board.workspace(name) is not None:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "refused",
            f"the name {name!r} is taken",
            hint=f"see it with GET /v1/workspaces/{name}, or choose another name",
        )
