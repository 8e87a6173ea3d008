"""The life of a workspace as a diagram, found by asking ``evolve`` and not by drawing.

From each state that was reached, every event that fits it (right epoch, attempt and machine) is
tried; what changes the phase is an arrow.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from services.recovery.domain.evolution import evolve
from services.recovery.domain.state import Phase, State, Step
from shared.events import Event
from shared.events import health as h
from shared.events import recovery as r
from shared.events import sync as s
from shared.machines import Host, MachineId, Role, WorkspaceName
from shared.policy import Policy

WS = WorkspaceName("w")
AT = datetime(2026, 1, 1, tzinfo=UTC)


def document() -> str:
    """``docs/phases.md``."""
    arrows = sorted(set(_arrows()))
    lines = [
        "# The life of a workspace",
        "",
        "Generated from `services/recovery/domain/evolution.py` by `make docs`: do not edit.",
        "Steps are the words in brackets. Beside any phase a workspace can be paused or degraded.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        *(f"    {before} --> {after}: {event}" for before, after, event in arrows),
        "```",
        "",
    ]
    return "\n".join(lines)


def _arrows() -> Iterator[tuple[str, str, str]]:
    waiting = [State(workspace=WS)]
    seen = {_name(waiting[0])}
    while waiting:
        state = waiting.pop()
        for event in _fitting(state):
            after = evolve(state, event)
            if _name(after) != _name(state):
                yield _name(state), _name(after), event.type
            if _name(after) not in seen:
                seen.add(_name(after))
                waiting.append(after)


def _name(state: State) -> str:
    if state.phase is Phase.UNREGISTERED:
        return "[*]"
    step = f"_{state.step.replace(' ', '_')}" if state.step is not Step.NONE else ""
    return f"{state.phase}{step}"


def _host(role: str) -> Host:
    return Host(id=MachineId(role), provider="vast", provider_id=role, address="a", port=22)


def _fitting(state: State) -> Iterator[Event]:
    """One example of each event that could be news in this state."""
    epoch, attempt = state.epoch, state.attempt.number
    gpu = state.primary or state.attempt.host or _host("gpu")
    if state.phase is Phase.UNREGISTERED:
        for adopted in (None, _host("mine")):
            yield r.WorkspaceRegistered(
                workspace=WS,
                epoch=0,
                path="/workspace",
                origin="adopted" if adopted else "empty",
                policy=Policy(),
                endpoint_port=1,
                adopted=adopted,
            )
        return
    yield r.StandbyProvisioned(workspace=WS, epoch=epoch, attempt=1, host=_host("standby"))
    yield h.ThresholdReached(
        workspace=WS,
        epoch=epoch,
        machine=gpu.id,
        role=Role.GPU,
        failures=3,
        threshold=3,
        reason="",
        positive=True,
    )
    yield r.FailoverStarted(workspace=WS, epoch=epoch + 1, machine=gpu.id, reason="")
    yield r.FailoverCompleted(
        workspace=WS, epoch=epoch, standby=MachineId("standby"), generation="g", seconds=1
    )
    yield r.RecoveryStarted(workspace=WS, epoch=epoch, reason="")
    yield r.ProvisionRequested(
        workspace=WS, epoch=epoch, role=Role.GPU, attempt=attempt, label=MachineId("gpu")
    )
    yield r.GpuProvisioned(
        workspace=WS, epoch=epoch, attempt=attempt, host=_host("gpu"), ssh_deadline=AT
    )
    yield r.GpuReady(
        workspace=WS, epoch=epoch, attempt=attempt, host=_host("gpu"), restore_deadline=AT
    )
    yield r.ProvisionFailed(
        workspace=WS, epoch=epoch, role=Role.GPU, attempt=attempt, stage="", reason=""
    )
    yield r.FailbackStarted(
        workspace=WS, epoch=epoch, machine=gpu.id, attempt=attempt, freeze_deadline=AT
    )
    yield r.StandbyFrozen(workspace=WS, epoch=epoch, attempt=attempt, frozen_at=AT)
    yield r.FailbackAborted(
        workspace=WS, epoch=epoch, attempt=attempt, reason="", retry_at=AT, restore_deadline=AT
    )
    yield r.FailbackVerified(
        workspace=WS, epoch=epoch + 1, machine=gpu.id, generation="g", switch_deadline=AT
    )
    yield r.FailbackCompleted(
        workspace=WS, epoch=epoch, machine=gpu.id, pause_seconds=1, completed_at=AT
    )
    yield r.RecoveryHalted(workspace=WS, epoch=epoch, reason="", hint="")
    yield r.WorkspaceRemoved(workspace=WS, epoch=epoch)
    yield _synced(state, gpu)


def _synced(state: State, source: Host) -> Event:
    return s.SyncCompleted(
        workspace=WS,
        epoch=state.epoch,
        generation="g",
        sequence=1,
        source=source.id,
        files=1,
        bytes=1,
        bytes_changed=1,
        manifest_sha256="",
        seconds=1,
        completed_at=AT,
        taken_at=AT,
    )
