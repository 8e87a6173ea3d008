"""What became of a request: a projection of its RequestReceived event and of what followed.

An answer names its request by causation. What changes the workspace for everybody (a pause, a
failover that completes) also ends requests for just that which were already waiting.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from services.api.domain import wording
from services.api.domain.views import WorkspaceView
from shared.envelope import Envelope
from shared.events.base import Event
from shared.events.recovery import (
    FailbackCompleted,
    FailoverCompleted,
    GenerationAccepted,
    RecoveryCompleted,
    RecoveryHalted,
    RequestAccepted,
    RequestRefused,
    RollbackRefused,
    WorkspacePaused,
    WorkspaceRegistered,
    WorkspaceRemoved,
    WorkspaceResumed,
)
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName


class Outcome(StrEnum):
    """PENDING until the log says otherwise. FAILED: it was begun and could not be ended."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One request and what became of it. ``position`` is None until it is in the log."""

    id: UUID
    workspace: WorkspaceName
    verb: str
    actor: str
    arguments: Mapping[str, Any]
    requested_at: datetime
    outcome: Outcome = Outcome.PENDING
    position: int | None = None
    reason: str = ""
    hint: str = ""
    ended_at: datetime | None = None

    @property
    def open(self) -> bool:
        return self.outcome is Outcome.PENDING


_ENDED_BY: dict[str, tuple[type[Event], ...]] = {
    "register": (WorkspaceRegistered,),
    "remove": (WorkspaceRemoved,),
    "pause": (WorkspacePaused,),
    "resume": (WorkspaceResumed,),
    "accept": (GenerationAccepted,),
    "failover": (FailoverCompleted,),
    "recover": (RecoveryCompleted,),
    "failback": (FailbackCompleted,),
}


def asked(envelope: Envelope) -> Operation | None:
    """The operation that this event begins, None when it is no request."""
    event = envelope.event
    if not isinstance(event, RequestReceived):
        return None
    return Operation(
        id=envelope.id,
        workspace=event.workspace,
        verb=event.verb,
        actor=event.actor,
        arguments=event.arguments,
        requested_at=envelope.time,
        position=envelope.position,
    )


def follow(operation: Operation, envelope: Envelope) -> Operation:
    """The operation after a later event of the same workspace."""
    if not operation.open:
        return operation
    event, at = envelope.event, envelope.time
    answers = envelope.causation == operation.id
    if isinstance(event, RequestRefused) and (
        answers or (envelope.causation is None and event.verb == operation.verb)
    ):
        return _ended(operation, Outcome.REFUSED, at, event.reason, event.hint)
    if isinstance(event, RollbackRefused) and "before" in operation.arguments:
        return _ended(operation, Outcome.REFUSED, at, event.reason, event.hint)
    if isinstance(event, RequestAccepted) and event.verb == operation.verb:
        return _ended(operation, Outcome.DONE, at)
    if isinstance(event, _ENDED_BY.get(operation.verb, ())):
        return _ended(operation, Outcome.DONE, at)
    if isinstance(event, RecoveryHalted) and operation.verb in {"recover", "failback"}:
        return _ended(operation, Outcome.FAILED, at, event.reason, event.hint)
    if isinstance(event, WorkspaceRemoved):
        return _ended(operation, Outcome.FAILED, at, "the workspace was removed")
    return operation


def settled(operation: Operation, view: WorkspaceView | None) -> Operation:
    """The operation as it begins: done when it asks for what already holds, as nothing follows.

    ``view`` is the workspace just before the request.
    """
    if view is None:
        return operation
    holds = {
        "pause": view.paused is not None,
        "resume": view.paused is None,
    }
    if not holds.get(operation.verb, False):
        return operation
    return _ended(operation, Outcome.DONE, operation.requested_at, "it was already so")


def _ended(
    operation: Operation, outcome: Outcome, at: datetime, reason: str = "", hint: str = ""
) -> Operation:
    return replace(operation, outcome=outcome, ended_at=at, reason=reason, hint=hint)


def as_json(operation: Operation) -> dict[str, Any]:
    """One operation as JSON values."""
    return {
        "id": str(operation.id),
        "workspace": operation.workspace,
        "verb": operation.verb,
        "actor": operation.actor,
        "status": operation.outcome.value,
        "recorded": operation.position is not None,
        "position": operation.position,
        "requested_at": wording.iso(operation.requested_at),
        "ended_at": wording.iso(operation.ended_at) if operation.ended_at else None,
        "reason": operation.reason or None,
        "hint": operation.hint or None,
    }
