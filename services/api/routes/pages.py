"""The pages for people: the status page behind a login, and the documentation of this api.

Rendered here, one style sheet, no script: they work under the strictest content policy and load
nothing from anywhere else.
"""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Cookie, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from services.api.adapters import html
from services.api.domain.board import line
from services.api.routes.front import AFront, Front

COOKIE = "dumont_session"
SESSION = timedelta(hours=12)
LINES_SHOWN = 30
POLICY = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)

router = APIRouter(include_in_schema=False)

Session = Annotated[str, Cookie(alias=COOKIE)]


@router.get("/")
async def status_page(front: AFront, session: Session = "") -> Response:
    """All workspaces and what happened last, or the login."""
    if not _is_open(front, session):
        return _page(html.login_page())
    board = front.follower.board
    states = [front.show(view) for view in board.workspaces()]
    recent = await front.follower.events(
        after=max(0, board.position - LINES_SHOWN), limit=LINES_SHOWN
    )
    lines = [(str(envelope.event.workspace), line(envelope)) for envelope in reversed(recent)]
    return _page(html.status_page(states, lines, front.now()))


@router.post("/login")
async def login(front: AFront, request: Request) -> Response:
    """Open the status page with an api key: the cookie holds a signed time, not the key."""
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    if front.keys.actor(form.get("key", [""])[0]) is None:
        page = html.login_page("this key opens nothing here")
        return _page(page, HTTPStatus.UNAUTHORIZED)
    until = str(int((front.now() + SESSION).timestamp()))
    answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        COOKIE,
        f"{until}.{front.keys.seal(until)}",
        max_age=int(SESSION.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.get("/style.css")
async def style() -> Response:
    return PlainTextResponse(html.STYLE, media_type="text/css")


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Every path of this api, read from its own OpenAPI document."""
    return _page(html.docs_page(request.app.openapi()))


def _is_open(front: Front, session: str) -> bool:
    until, _, seal = session.partition(".")
    if not until.isdecimal() or not front.keys.sealed(until, seal):
        return False
    return int(until) > front.now().timestamp()


def _page(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(text, status_code=status, headers=headers)
