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
    for kind in EVENTS.values():
        sample = _sample(kind.type, kind.version)
        for role, machine in _machines(state).items():
            if _is_about_the_other(sample, role):
                continue
            for epoch in (state.epoch, state.epoch + 1):
                yield _as_of(sample, state, machine, role, epoch)


@cache
def _sample(type_: str, version: int) -> Event:
    path = SAMPLES / f"{type_}.v{version}.json"
    return codec.decode(json.dumps(json.loads(path.read_text())).encode()).event


def _machines(state: State) -> dict[Role, Host]:
    return {
        Role.GPU: state.primary or state.attempt.host or _host("gpu"),
        Role.STANDBY: state.standby.host or _host("standby"),
    }


def _is_about_the_other(event: Event, role: Role) -> bool:
    """Whether its host can only be a standby, or only a GPU, and is not this one."""
    named = hasattr(event, "host")
    return named and event.type.startswith("Standby") != (role is Role.STANDBY)


def _as_of(event: Event, state: State, machine: Host, role: Role, epoch: int) -> Event:
    of_standby = role is Role.STANDBY
    changes: dict[str, Any] = {
        "workspace": WS,
        "epoch": epoch,
        "role": role,
        "attempt": state.standby.attempt if of_standby else state.attempt.number,
        "round": state.attempt.round,
        "machine": machine.id,
        "source": machine.id,
        "host": machine,
        "label": machine.id,
    }
    if event.type == "WorkspaceRegistered":
        changes |= {"epoch": 0, "adopted": _host("mine") if of_standby else None}
    known = {field.name for field in fields(event)}
    return replace(event, **{name: value for name, value in changes.items() if name in known})


def _host(name: str) -> Host:
    return Host(id=MachineId(name), provider="vast", provider_id=name, address="a", port=22)
