"""The HTTP surface: ``/v1`` behind a key, and beside it what needs none."""

from fastapi import APIRouter, Depends, FastAPI

from services.api.adapters.limits import BodyLimit, SafeHeaders
from services.api.routes import log, outside, pages, workspaces
from services.api.routes.front import Front, actor, caught_up
from services.api.routes.problems import add_problem_handlers
from services.api.schemas import VERSION, Problem

_ABOUT = """\
State, timeline and events of protected workspaces, all of it a fold of one append-only log; what
changes something is a request, recorded in that log and answered there.

Errors are problems after RFC 9457 with a `hint`. Pages go by position in the log: `after`, `limit`
and a `Link` to the next.
"""


def create_app(front: Front | None) -> FastAPI:
    """The application over its parts; without them it can only describe itself."""
    app = FastAPI(
        title="Dumont Failover",
        version=VERSION,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False},
    )
    app.state.front = front
    contract = APIRouter(
        prefix="/v1",
        dependencies=[Depends(actor), Depends(caught_up)],
        responses={
            "default": {
                "model": Problem,
                "description": "a problem",
                "content": {"application/problem+json": {}},
            }
        },
    )
    contract.include_router(workspaces.router)
    contract.include_router(log.router)
    app.include_router(contract)
    app.include_router(outside.router)
    app.include_router(pages.router)
    add_problem_handlers(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(SafeHeaders)
    return app


__all__ = ["Front", "create_app"]
