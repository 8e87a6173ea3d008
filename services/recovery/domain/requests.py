"""What people may ask for, and what follows: the decision, or a refusal with its reason."""

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from posixpath import normpath
from typing import Any

from services.recovery.domain import freshness, mortality
from services.recovery.domain.state import Phase, Serving, State
from shared.events import Event
from shared.events.recovery import (
    FailoverStarted,
    GenerationAccepted,
    RecoveryStarted,
    RequestAccepted,
    RequestRefused,
    RollbackRequested,
    WorkspacePaused,
    WorkspaceRegistered,
    WorkspaceRemoved,
    WorkspaceResumed,
)
from shared.events.requests import RequestReceived
from shared.machines import Host
from shared.policy import NUMBER_MAX, Policy

Answer = tuple[Event, ...]

ORIGINS = ("empty", "uploaded", "adopted")
SYSTEM_TREES = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr"),
    *("/opt/dumont", "/var/lib/dumont"),
)
SYSTEM_DIRECTORIES = ("/", "/home", "/opt", "/root", "/tmp", "/var", "/var/lib")  # noqa: S108
HOST_NEEDED = {"id", "provider", "provider_id", "address", "port"}
HOST_FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "provider", "provider_id", "address", "user", "description"), str),
    "port": int,
    "price_per_hour": (int, float),
}


class Refusal(Exception):
    """Why not, and what to do instead."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


def answer(
    state: State,
    request: RequestReceived,
    *,
    now: datetime,
    free_port: int | None,
    limitation: Callable[[bool], str | None],
) -> Answer:
    """Decide on a request. Never raises: what cannot be done is a RequestRefused."""
    try:
        if request.verb == "register":
            return _register(state, request, free_port)
        if state.phase in {Phase.UNREGISTERED, Phase.REMOVED}:
            raise Refusal(
                f"there is no workspace {state.workspace!r}", "see them with: dumont workspace list"
            )
        return _known(state, request, now, limitation)
    except Refusal as refusal:
        return (
            RequestRefused(
                workspace=state.workspace,
                epoch=state.epoch,
                verb=request.verb,
                reason=str(refusal),
                hint=refusal.hint,
            ),
        )


def _register(state: State, request: RequestReceived, free_port: int | None) -> Answer:
    if state.phase is not Phase.UNREGISTERED:
        raise Refusal(
            f"the name {state.workspace!r} is taken"
            + (" by a removed workspace" if state.phase is Phase.REMOVED else ""),
            "choose another name",
        )
    if free_port is None:
        raise Refusal(
            "every endpoint port is in use",
            "widen DUMONT_ENDPOINT_PORTS and restart, or remove a workspace",
        )
    arguments = request.arguments
    origin = str(arguments.get("origin", "empty"))
    adopted = _host(arguments.get("adopted"), providers=("ssh", "vast"))
    if origin not in ORIGINS or (origin == "adopted") != bool(adopted):
        raise Refusal(
            f"origin {origin!r} does not fit",
            "take empty, uploaded, or adopted together with the host that holds the data",
        )
    path = str(arguments.get("path", "/workspace"))
    if not _usable(path):
        raise Refusal(f"path {path!r} cannot be a workspace", "take a directory such as /workspace")
    return (
        WorkspaceRegistered(
            workspace=state.workspace,
            epoch=0,
            path=path,
            origin=origin,
            policy=_policy(arguments.get("policy")),
            endpoint_port=free_port,
            adopted=adopted,
            standby=_host(arguments.get("standby"), providers=("ssh",)),
        ),
    )


def _usable(path: str) -> bool:
    """Whether a workspace may be there on its hosts: nowhere that the system or we live."""
    plain = path.startswith("/") and not path.startswith("//") and normpath(path) == path
    inside = any(path == tree or path.startswith(f"{tree}/") for tree in SYSTEM_TREES)
    return plain and "\n" not in path and path not in SYSTEM_DIRECTORIES and not inside


def _policy(values: object) -> Policy:
    if values is None:
        return Policy()
    if not isinstance(values, dict):
        raise Refusal("policy: it is not an object", "give settings by their names")
    known = {field.name for field in fields(Policy)}
    if unknown := sorted(str(name) for name in values if name not in known):
        raise Refusal(
            f"policy: unknown setting {unknown[0]!r}", f"known are {', '.join(sorted(known))}"
        )
    defaults = Policy()
    typed: dict[str, Any] = {
        name: _like(name, value, getattr(defaults, name)) for name, value in values.items()
    }
    try:
        return Policy(**typed)
    except ValueError as error:
        raise Refusal(str(error), "see the policy's defaults in the documentation") from None


def _like(name: str, value: object, default: object) -> object:
    """``value`` as a setting of the same kind as its default. Raises Refusal."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(default, float) and isinstance(value, int | float):
        if not isinstance(value, bool) and abs(value) <= NUMBER_MAX:
            return float(value)
    elif type(value) is type(default):
        return value
    raise Refusal(f"policy: {name} is {value!r}", f"give it a value like the default, {default!r}")


def _host(values: object, *, providers: tuple[str, ...]) -> Host | None:
    if not values:
        return None
    refusal = Refusal("the host is not described in full", "give it as user@host:port")
    if not isinstance(values, dict) or not HOST_FIELDS.keys() >= values.keys() >= HOST_NEEDED:
        raise refusal
    if not all(isinstance(value, HOST_FIELDS[name]) for name, value in values.items()):
        raise refusal
    if values["provider"] not in providers or not 0 <= values["port"] < 65536:
        raise refusal
    return Host(**values)


def _known(
    state: State,
    request: RequestReceived,
    now: datetime,
    limitation: Callable[[bool], str | None],
) -> Answer:
    name, epoch, actor = state.workspace, state.epoch, request.actor
    match request.verb:
        case "remove":
            return (WorkspaceRemoved(workspace=name, epoch=epoch, actor=actor),)
        case "uploaded":
            if state.origin != "uploaded" or state.complete:
                raise Refusal("no upload is expected here", "the workspace already has its data")
            if state.serving is not Serving.STANDBY:
                raise Refusal("the standby is not up yet", "upload first, through the endpoint")
            return (RequestAccepted(workspace=name, epoch=epoch, verb="uploaded"),)
        case "failover":
            return _failover(state, request, now, limitation)
        case "recover":
            if state.phase not in {Phase.ON_STANDBY, Phase.HALTED} or not state.complete:
                raise Refusal(
                    f"the workspace is {state.phase}: there is nothing to recover from now",
                    "see what it is doing with: dumont status",
                )
            if mortality.nothing_to_restore(state):
                reason = "the standby holds no generation: there is nothing to restore"
                raise Refusal(reason, mortality.rescue_hint(state))
            asked = f"asked by {actor}"
            return (RecoveryStarted(workspace=name, epoch=epoch, reason=asked, started_at=now),)
        case "pause":
            reason = str(request.arguments.get("reason", ""))
            return (WorkspacePaused(workspace=name, epoch=epoch, actor=actor, reason=reason),)
        case "resume":
            return (WorkspaceResumed(workspace=name, epoch=epoch, actor=actor),)
        case "accept":
            if not state.held:
                raise Refusal("nothing is held: there is no shrunken source to accept")
            return (GenerationAccepted(workspace=name, epoch=epoch, actor=actor),)
        case "failback":
            raise Refusal(
                "failback runs by itself as the last step of a recovery",
                "start one with: dumont recover NAME",
            )
        case verb:
            raise Refusal(f"this version does not know the request {verb!r}")


def _failover(
    state: State,
    request: RequestReceived,
    now: datetime,
    limitation: Callable[[bool], str | None],
) -> Answer:
    before = _moment(request.arguments.get("before"), now)
    data_loss_allowed = request.arguments.get("allow_data_loss") is True or before is not None
    if reason := limitation(data_loss_allowed):
        stale = not data_loss_allowed and reason == freshness.staleness(state, now)
        hint = freshness.remedy(state) if stale else "see the state with: dumont status"
        raise Refusal(reason, hint)
    assert state.primary is not None
    why = str(request.arguments.get("reason", "")) or "asked for"
    if before is not None:
        if state.rollback is not None:
            raise Refusal("a copy to go back to is being looked for already", "wait a moment")
        return (
            RollbackRequested(
                workspace=state.workspace,
                epoch=state.epoch,
                before=before,
                reason=why,
                actor=request.actor,
            ),
        )
    return (
        FailoverStarted(
            workspace=state.workspace,
            epoch=state.epoch + 1,
            machine=state.primary.id,
            reason=why,
            actor=request.actor,
        ),
    )


def _moment(given: object, now: datetime) -> datetime | None:
    """The moment whose data is wanted back, None when none is named. Raises Refusal."""
    if given is None:
        return None
    hint = "give a past moment with its time zone, such as 2026-01-31T08:00:00+00:00"
    try:
        moment = datetime.fromisoformat(str(given))
    except ValueError:
        raise Refusal(f"before: {given!r} is no moment", hint) from None
    if moment.tzinfo is None or moment >= now:
        raise Refusal(f"before: {given} has no time zone or is not over", hint)
    return moment.astimezone(UTC)
