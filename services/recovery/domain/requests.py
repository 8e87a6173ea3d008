"""What people may ask for, and what follows: the decision, or a refusal with its reason."""

from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import Any, cast

from services.recovery.domain.state import Phase, Serving, State
from shared.events import Event
from shared.events.recovery import (
    FailoverStarted,
    GenerationAccepted,
    RecoveryStarted,
    RequestAccepted,
    RequestRefused,
    WorkspacePaused,
    WorkspaceRegistered,
    WorkspaceRemoved,
    WorkspaceResumed,
)
from shared.events.requests import RequestReceived
from shared.machines import Host, MachineId
from shared.policy import Policy

Answer = tuple[Event, ...]


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
    limitation: Callable[[], str | None],
) -> Answer:
    """Decide on a request. Never raises: what cannot be done is a RequestRefused."""
    try:
        if request.verb == "register":
            return _register(state, request, free_port)
        if state.phase in {Phase.UNREGISTERED, Phase.REMOVED}:
            raise Refusal(
                f"there is no workspace {state.workspace!r}", "see them with: dumont workspace list"
            )
        return _known(state, request, limitation)
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
    arguments = cast(dict[str, Any], request.arguments)
    origin = arguments.get("origin", "empty")
    adopted = _host(arguments.get("adopted"))
    if origin not in {"empty", "uploaded", "adopted"} or (origin == "adopted") != bool(adopted):
        raise Refusal(
            f"origin {origin!r} does not fit",
            "take empty, uploaded, or adopted together with the host that holds the data",
        )
    path = str(arguments.get("path", "/workspace"))
    if not path.startswith("/") or path.rstrip("/") in {
        "",
        "/root",
        "/home",
        "/var",
        "/etc",
        "/usr",
    }:
        raise Refusal(f"path {path!r} cannot be a workspace", "take a directory such as /workspace")
    return (
        WorkspaceRegistered(
            workspace=state.workspace,
            epoch=0,
            path=path.rstrip("/"),
            origin=origin,
            policy=_policy(arguments.get("policy") or {}),
            endpoint_port=free_port,
            adopted=adopted,
            standby=_host(arguments.get("standby")),
        ),
    )


def _policy(values: dict[str, Any]) -> Policy:
    known = {field.name for field in fields(Policy)}
    if unknown := sorted(values.keys() - known):
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
        if not isinstance(value, bool):
            return float(value)
    elif type(value) is type(default):
        return value
    raise Refusal(f"policy: {name} is {value!r}", f"give it a value like the default, {default!r}")


def _host(values: dict[str, Any] | None) -> Host | None:
    if not values:
        return None
    try:
        return Host(**{**values, "id": MachineId(str(values["id"]))})
    except (TypeError, KeyError):
        raise Refusal("the host is not described in full", "give it as user@host:port") from None


def _known(state: State, request: RequestReceived, limitation: Callable[[], str | None]) -> Answer:
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
            return _failover(state, request, limitation)
        case "recover":
            if state.phase not in {Phase.ON_STANDBY, Phase.HALTED} or not state.complete:
                raise Refusal(
                    f"the workspace is {state.phase}: there is nothing to recover from now",
                    "see what it is doing with: dumont status",
                )
            return (RecoveryStarted(workspace=name, epoch=epoch, reason=f"asked by {actor}"),)
        case "pause":
            reason = str(request.arguments.get("reason", ""))
            return (WorkspacePaused(workspace=name, epoch=epoch, actor=actor, reason=reason),)
        case "resume":
            return (WorkspaceResumed(workspace=name, epoch=epoch, actor=actor),)
        case "accept":
            return (GenerationAccepted(workspace=name, epoch=epoch, actor=actor),)
        case "failback":
            raise Refusal(
                "failback runs by itself as the last step of a recovery",
                "start one with: dumont recover NAME",
            )
        case verb:
            raise Refusal(f"this version does not know the request {verb!r}")


def _failover(
    state: State, request: RequestReceived, limitation: Callable[[], str | None]
) -> Answer:
    if reason := limitation():
        raise Refusal(reason, "see the state with: dumont status")
    assert state.primary is not None
    return (
        FailoverStarted(
            workspace=state.workspace,
            epoch=state.epoch + 1,
            machine=state.primary.id,
            reason=str(request.arguments.get("reason", "")) or "asked for",
            actor=request.actor,
        ),
    )
