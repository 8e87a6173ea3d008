"""What every route stands on: the parts of this process, and who is asking."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Header, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from services.api.adapters.keys import Keys
from services.api.adapters.pulses import Pulses
from services.api.adapters.telemetry import Samples
from services.api.domain.presentation import Json, as_json
from services.api.domain.views import WorkspaceView
from services.api.ports import Bus
from services.api.routes.problems import ProblemError, log_silent
from services.api.service import Follower, Requests
from shared.clock import Now
from shared.patience import Waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The parts that the routes use, put together in bootstrap."""

    follower: Follower
    requests: Requests
    samples: Samples
    pulses: Pulses
    waits: Waits
    bus: Bus
    keys: Keys
    now: Now
    endpoint_host: str

    def show(self, view: WorkspaceView) -> Json:
        """The state of a workspace as clients see it now."""
        shown = as_json(view, self.now(), endpoint_host=self.endpoint_host)
        return self.samples.add_to(shown)


def front(request: Request) -> Front:
    """The parts of the process that serves this request."""
    parts = request.app.state.front
    assert isinstance(parts, Front)
    return parts


AFront = Annotated[Front, Depends(front)]

_bearer = HTTPBearer(auto_error=False, description="an api key")


def actor(
    front: AFront,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    """Who is asking. Refuses requests without a key that opens this api."""
    found = front.keys.actor(credentials.credentials) if credentials else None
    if found is None:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "no-key",
            "this key opens nothing here" if credentials else "there is no key in the request",
            hint="send the header Authorization: Bearer KEY",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks for a change, and the key under which a repeat is the same request."""

    actor: str
    key: str | None


def asker(
    actor: Annotated[str, Depends(actor)],
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=200,
            description="a repeat under the same key is answered from the log, not done again",
        ),
    ] = None,
) -> Asker:
    return Asker(actor=actor, key=key)


AnAsker = Annotated[Asker, Depends(asker)]


def caught_up(front: AFront) -> None:
    """Refuses while the log is still being read: an answer would be of the past."""
    if front.follower.caught_up:
        return
    if not front.follower.answering and front.follower.board.position == 0:
        raise log_silent()
    raise ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "starting",
        f"the log is being read, up to position {front.follower.board.position} so far",
        hint="ask again in a moment; /readyz says when it is done",
        headers={"Retry-After": "1"},
    )


def workspace(front: AFront, name: Annotated[str, Path(max_length=100)]) -> WorkspaceView:
    """The workspace in the path. Refuses names that nobody registered."""
    view = front.follower.board.workspace(name)
    if view is not None:
        return view
    near = front.follower.board.like(name)
    known = "see them with GET /v1/workspaces"
    raise ProblemError(
        HTTPStatus.NOT_FOUND,
        "unknown-workspace",
        f"there is no workspace {name!r}",
        hint=f"did you mean {', '.join(near)}?" if near else known,
        near=near,
    )


AWorkspace = Annotated[WorkspaceView, Depends(workspace)]
