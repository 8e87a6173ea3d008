"""Errors as RFC 9457 problems: what went wrong, which, and in ``hint`` what to do about it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from services.api.ports import LogUnknownError
from services.api.schemas import Problem

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:dumont:problem:"
SEND_JSON = "send one JSON object with Content-Type: application/json"


class ProblemError(Exception):
    """Ends a request with a problem. ``slug`` names the kind of problem and never changes."""

    def __init__(
        self,
        status: HTTPStatus,
        slug: str,
        detail: str,
        *,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.hint = hint
        self.headers = headers
        self.more = more


def add_problem_handlers(app: FastAPI) -> None:
    """Whatever goes wrong in ``app`` is answered as a problem."""

    @app.exception_handler(ProblemError)
    async def _known(request: Request, error: ProblemError) -> JSONResponse:
        return _answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(request, _as_problem(error.errors()))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return _answer(request, _of_status(request, error))

    @app.exception_handler(LogUnknownError)
    async def _log_silent(request: Request, error: LogUnknownError) -> JSONResponse:
        return _answer(request, log_silent())

    @app.exception_handler(Exception)
    async def _ours(request: Request, error: Exception) -> JSONResponse:
        detail = "something went wrong here, and it is our mistake"
        hint = "the api's log has the details; ask again, and report it if it comes back"
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return _answer(request, ProblemError(status, "internal", detail, hint=hint))


def log_silent() -> ProblemError:
    """The log could not be read."""
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "log-silent",
        "the event log does not answer",
        hint="ask again in a moment; /readyz says when it is back",
        headers={"Retry-After": "1"},
    )


def _answer(request: Request, error: ProblemError) -> JSONResponse:
    body = Problem(
        type=TYPE_PREFIX + error.slug,
        title=error.status.phrase,
        status=error.status.value,
        detail=error.detail,
        hint=error.hint,
        instance=request.url.path,
        **error.more,
    )
    return JSONResponse(
        body.model_dump(mode="json"),
        status_code=error.status.value,
        headers=dict(error.headers or {}),
        media_type=MEDIA_TYPE,
    )


def _of_status(request: Request, error: HTTPException) -> ProblemError:
    """What the router itself refuses: unknown paths and methods."""
    status = HTTPStatus(error.status_code)
    detail, hint = str(error.detail), "see /docs for what there is"
    if status is HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}"
    if status is HTTPStatus.BAD_REQUEST:  # what the JSON parser itself gave up on
        detail, hint = "the body is no JSON that can be read", SEND_JSON
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.url.path} does not take {request.method}"
    slug = status.phrase.lower().replace(" ", "-")
    return ProblemError(status, slug, detail, hint=hint, headers=error.headers)


def _as_problem(errors: Sequence[Any]) -> ProblemError:
    if any(error["type"] == "json_invalid" for error in errors):
        return ProblemError(
            HTTPStatus.BAD_REQUEST,
            "not-json",
            "the body is not JSON",
            hint=SEND_JSON,
        )
    found = [{"where": _where(error["loc"]), "problem": _reason(error)} for error in errors]
    told = "; ".join(f"{item['where']}: {item['problem']}" for item in found)
    no_object = any(error["type"] == "model_attributes_type" for error in errors)
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid",
        f"the request cannot be taken: {told}",
        hint=SEND_JSON if no_object else "correct what is listed in errors; see /docs",
        errors=found,
    )


def _where(location: Sequence[object]) -> str:
    inner = [str(part) for part in location if part not in {"body", "query", "path", "header"}]
    return ".".join(inner) or "body"


def _reason(error: Mapping[str, Any]) -> str:
    reason = str(error["msg"]).removeprefix("Value error, ")
    return "there is no such field" if error["type"] == "extra_forbidden" else reason
