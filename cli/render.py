"""The api's JSON as tables and lines for people. Pure: rows and text in, nothing printed."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from cli import text

Json = Mapping[str, Any]

STATUS_HEADERS = (
    "WORKSPACE",
    "PHASE",
    "EPOCH",
    "ENDPOINT",
    "PRIMARY",
    "STANDBY",
    "SYNCS",
    "LAST SYNC",
    "AT RISK",
    "FAILURES",
    "PRICE",
)
TIMELINE_HEADERS = ("TIME", "EVENT", "WHAT HAPPENED")
EVENT_HEADERS = ("POSITION", "TIME", "WORKSPACE", "EPOCH", "EVENT", "DATA")


def status_rows(states: Iterable[Json], now: datetime) -> list[tuple[str, ...]]:
    """One row of STATUS_HEADERS a workspace."""
    return [_status_row(state, now) for state in states]


def _status_row(state: Json, now: datetime) -> tuple[str, ...]:
    return (
        str(state["name"]),
        phase(state),
        str(state.get("epoch", "-")),
        endpoint(state),
        machine(state.get("primary")),
        machine(state.get("standby")),
        str(state.get("sync_count", 0)),
        text.ago(text.when(state.get("last_sync_time")), now),
        at_risk(state),
        f"{state.get('failures', 0)}/{state.get('threshold', '-')}",
        text.price(state.get("price_per_hour")),
    )


def phase(state: Json) -> str:
    """The phase with its step and what stands beside it: ``RECOVERING: restoring 62 %``."""
    words = str(state.get("phase", "?"))
    recovery = state.get("recovery") or {}
    if step := state.get("step"):
        words += f": {step}"
    if progress := recovery.get("progress"):
        words += f" {progress['percent']:.0f} %"
    beside = [name for name in ("degraded", "paused") if state.get(name)]
    return f"{words} ({', '.join(beside)})" if beside else words


def endpoint(state: Json) -> str:
    where = state.get("endpoint") or {}
    if not where.get("port"):
        return "-"
    return f"{where.get('host') or '?'}:{where['port']}"


def machine(found: Json | None) -> str:
    """A host in one cell: provider and number, what it does, what it is."""
    if not found:
        return "-"
    # Compute Engine's number begins with the zone, which the description tells too.
    number = str(found.get("provider_id")).rpartition("/")[2]
    name = f"{found.get('provider')}:{number}"
    return ", ".join(part for part in (name, str(found.get("status") or "")) if part)


def at_risk(state: Json) -> str:
    """What would be lost if the primary died now."""
    lag = state.get("lag") or {}
    if lag.get("seconds") is None:
        return "-"
    seconds = text.duration(lag["seconds"])
    return f"{seconds}, {text.size(lag['bytes'])}" if lag.get("bytes") is not None else seconds


def remarks(state: Json) -> list[str]:
    """What a person should read below the table, most urgent first, each with what to do."""
    name = state["name"]
    lines = []
    if halted := state.get("halted"):
        lines.append(f"! {name} is halted: {halted['reason']}")
    if reason := state.get("degraded_reason"):
        lines.append(f"! {name} is degraded: {reason}")
    recovery = state.get("recovery") or {}
    if failure := recovery.get("last_failure"):
        tries = f"attempt {recovery.get('attempt')} of {recovery.get('attempts')}"
        lines.append(f"  {name}: {tries}; the last one failed: {failure['reason']}")
    if next_at := recovery.get("next_attempt_at"):
        lines.append(f"  {name}: next attempt at {text.clock(next_at)}")
    if trouble := state.get("standby_trouble"):
        lines.append(f"! {name} has no standby yet: {trouble['reason']}")
    if advice := state.get("next"):
        lines.append(f"→ {name}: {advice}")
    return lines


def facts(state: Json, now: datetime) -> list[tuple[str, str]]:
    """Everything about one workspace as name and value."""
    newest = state.get("last_generation") or {}
    rows = [
        ("workspace", str(state["name"])),
        ("phase", phase(state)),
        ("epoch", str(state.get("epoch"))),
        ("endpoint", endpoint(state)),
        ("path", str(state.get("path"))),
        ("origin", str(state.get("origin"))),
    ]
    rows += [(role, _machine_long(state.get(role))) for role in ("primary", "standby", "candidate")]
    rows += [
        ("syncs", str(state.get("sync_count", 0))),
        ("last sync", text.ago(text.when(state.get("last_sync_time")), now)),
        ("generation", _generation(newest)),
        ("at risk", str((state.get("lag") or {}).get("text") or "-")),
        ("failures", f"{state.get('failures', 0)} of {state.get('threshold', '-')}"),
        ("price", text.price(state.get("price_per_hour"))),
        ("billed twice", f"{float(state.get('double_billed_seconds') or 0.0):.1f} s in all"),
    ]
    policy = state.get("policy") or {}
    rows.append(("policy", ", ".join(f"{k}={_value(v)}" for k, v in policy.items())))
    return rows


def _machine_long(found: Json | None) -> str:
    if not found:
        return "-"
    parts = (
        machine(found),
        f"{found.get('host')}:{found.get('port')}",
        text.price(found.get("price_per_hour")),
        str(found.get("description") or ""),
    )
    return ", ".join(part for part in parts if part)


def _generation(newest: Json) -> str:
    if not newest:
        return "-"
    return f"{newest['id']}, {newest['files']} files, {text.size(newest['bytes'])}"


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"({len(value)})" if any(len(str(v)) > 12 for v in value) else "+".join(value)
    return str(value)


def timeline_rows(entries: Iterable[Json]) -> list[tuple[str, ...]]:
    """One row of TIMELINE_HEADERS an entry."""
    return [
        (text.clock(e.get("at")), str(e.get("event", "")), str(e.get("text", ""))) for e in entries
    ]


def event_rows(events: Iterable[Json]) -> list[tuple[str, ...]]:
    """One row of EVENT_HEADERS a CloudEvent."""
    return [_event_row(event) for event in events]


def _event_row(event: Json) -> tuple[str, ...]:
    data = dict(event.get("data") or {})
    for known in ("workspace", "epoch"):
        data.pop(known, None)
    return (
        str(event.get("position", "-")),
        text.clock(event.get("time")),
        str(event.get("subject", "")),
        str(event.get("epoch", "")),
        event_name(event),
        ", ".join(f"{key}={_short(value)}" for key, value in data.items()),
    )


def event_name(event: Json) -> str:
    """``dumont.SyncFailed.v1`` as ``SyncFailed``."""
    return str(event.get("type", "")).removeprefix("dumont.").rpartition(".v")[0]


def _short(value: object, limit: int = 60) -> str:
    said = str(value)
    return said if len(said) <= limit else said[: limit - 1] + "…"


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One row for a stream that has no end, and so no table."""
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*padded, *cells[len(widths) :]]).rstrip()
