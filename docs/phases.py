"""The life of a workspace as a diagram, found by asking ``evolve`` and not by drawing.

From each state that was reached, every event that there is, as it would be said there (right epoch,
attempt and machine), is tried; what changes the phase is an arrow. So an event that somebody adds
is in the diagram, or has no arrow to be drawn.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from services.recovery.domain.effects import SendNotice
from services.recovery.domain.evolution import evolve
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import Phase, State, Step
from shared import codec
from shared.events import EVENTS, Event
from shared.machines import Host, MachineId, Role, WorkspaceName

SAMPLES = Path(__file__).resolve().parent.parent / "tests" / "contract" / "samples"
WS = WorkspaceName("w")
BESIDE: Mapping[str, Callable[[State], bool]] = {
    "paused": lambda state: state.paused,
    "degraded": lambda state: state.standby.host is None or bool(state.standby.lost),
    "held": lambda state: state.held,
}
"""What a workspace can be beside its phase."""


@dataclass(slots=True)
class Found:
    """What was met on all ways through the phases."""

    arrows: set[tuple[str, str, str]] = field(default_factory=set)
    owed: dict[str, set[str]] = field(default_factory=dict)
    begun: dict[str, set[str]] = field(default_factory=dict)
    ended: dict[str, set[str]] = field(default_factory=dict)


def document() -> str:
    """``docs/phases.md``."""
    found = explored()
    lines = [
        "# The life of a workspace",
        "",
        "Generated from `services/recovery/domain/evolution.py` by `make docs`: do not edit.",
        "Steps are the words after the phase.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        *(f"    {before} --> {after}: {event}" for before, after, event in sorted(found.arrows)),
        "```",
        "",
        "## Beside any phase",
        "",
        "| it is | from | until |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {_list(found.begun, name)} | {_list(found.ended, name)} |"
            for name in BESIDE
        ),
        "",
        "## What is owed",
        "",
        "What recovery carries out, by what a workspace may be in each phase. Where nothing is",
        "owed, a person, the sync service or a wait is next.",
        "",
        "| phase | effects |",
        "| --- | --- |",
        *(
            f"| {name.replace('_', ' ')} | {_list(found.owed, name)} |"
            for name in sorted(found.owed)
        ),
        "",
    ]
    return "\n".join(lines)


def _list(names: Mapping[str, set[str]], key: str) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names.get(key, ())))


def explored() -> Found:
    """Every kind of state that events lead to, from a workspace that nobody registered on."""
    found = Found()
    waiting = [State(workspace=WS)]
    seen = {_kind(waiting[0])}
    while waiting:
        state = waiting.pop()
        if state.phase is not Phase.UNREGISTERED:
            effects = {type(e).__name__ for e in pending(state) if not isinstance(e, SendNotice)}
            found.owed.setdefault(_name(state), set()).update(effects)
        for event in _fitting(state):
            after = evolve(state, event)
            if after is state:
                continue
            _compare(found, state, event, after)
            if _kind(after) not in seen:
                seen.add(_kind(after))
                waiting.append(after)
    return found


def _compare(found: Found, state: State, event: Event, after: State) -> None:
    if _name(after) != _name(state):
        found.arrows.add((_name(state), _name(after), event.type))
    if Phase.UNREGISTERED in {state.phase, after.phase} or after.phase is Phase.REMOVED:
        return
    for name, holds in BESIDE.items():
        if holds(after) != holds(state):
            where = found.begun if holds(after) else found.ended
            where.setdefault(name, set()).add(event.type)


def _name(state: State) -> str:
    if state.phase is Phase.UNREGISTERED:
        return "[*]"
    step = f"_{state.step.replace(' ', '_')}" if state.step is not Step.NONE else ""
    return f"{state.phase}{step}"


def _kind(state: State) -> tuple[object, ...]:
    """What makes two states worth looking at both."""
    suspicion, standby = state.suspicion, state.standby
    return (
        _name(state),
        *(holds(state) for holds in BESIDE.values()),
        state.serving,
        state.primary_adopted and state.primary_ready,
        suspicion is not None and suspicion.recheck_at is None,
        standby.label is None,
        standby.thaw_owed,
        bool(state.generation),
        state.wait_until is None and not state.condemned,
    )


# --- every event, as it would be said in a state --------------------------------------------------


def _fitting(state: State) -> Iterator[Event]:
    """Each event about each machine, of this epoch and of the one that it may begin."""
    number, round_ = state.attempt.number, state.attempt.round
    for role, machine in _machines(state).items():
        attempt = state.standby.attempt if role is Role.STANDBY else number
        for epoch in (state.epoch, state.epoch + 1):
            yield from _said(machine, role, epoch, attempt, round_)


@cache
def _said(machine: Host, role: Role, epoch: int, attempt: int, round_: int) -> tuple[Event, ...]:
    """What can be said of a machine; what is about none is said beside the GPU."""
    values = {
        "workspace": WS,
        "epoch": epoch,
        "role": role,
        "attempt": attempt,
        "round": round_,
        "machine": machine.id,
        "source": machine.id,
        "host": machine,
        "label": machine.id,
        "adopted": _host("mine") if role is Role.STANDBY else None,
    }
    said = []
    for kind in EVENTS.values():
        named = {field.name for field in fields(kind)} & values.keys()
        other = "host" in named and kind.type.startswith("Standby") != (role is Role.STANDBY)
        if not other and (role is Role.GPU or named - {"workspace", "epoch"}):
            changes: dict[str, Any] = {name: values[name] for name in named}
            said.append(replace(_sample(kind.type, kind.version), **changes))
    return tuple(said)


@cache
def _sample(type_: str, version: int) -> Event:
    path = SAMPLES / f"{type_}.v{version}.json"
    return codec.decode(json.dumps(json.loads(path.read_text())).encode()).event


def _machines(state: State) -> dict[Role, Host]:
    return {
        Role.GPU: state.primary or state.attempt.host or _host("gpu"),
        Role.STANDBY: state.standby.host or _host("standby"),
    }


def _host(name: str) -> Host:
    return Host(id=MachineId(name), provider="vast", provider_id=name, address="a", port=22)
