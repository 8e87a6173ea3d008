"""Contenders run beside each other, and are judged by ``targets.toml`` alone.

Every run has all contenders in it, one after the other on the same server, so that a busy machine
slows them alike. What is printed are medians with the least and the greatest; the ratio is the
median of the runs' own ratios. A measure that did not run is not met.
"""

import json
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

TARGETS = Path(__file__).with_name("targets.toml")
BUILD = Path(__file__).parents[1] / "build" / "bench"

_RULES = {
    "ratio_at_least": "ratio >= {:g}",
    "ratio_at_most": "ratio <= {:g}",
    "ours_at_most": "ours <= {:g}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measure: ``ours`` and ``peer`` have a value for each run, in ``unit``.

    ``note`` says what a reader must know to judge it.
    """

    measure: str
    ours: Sequence[float]
    peer: Sequence[float]
    peer_name: str
    unit: str
    note: str = ""

    @property
    def ratio(self) -> float | None:
        ratios = [a / b for a, b in zip(self.ours, self.peer, strict=True) if b]
        return statistics.median(ratios) if ratios else None


def met(target: Mapping[str, float], measured: Measured | None) -> bool:
    """Whether a measure meets its target: the one judge of every bench.

    ``ours_at_most`` holds for each single run, ratios for their median.
    """
    if measured is None or not measured.ours:
        return False
    [(rule, bound)] = target.items()
    ratio = measured.ratio
    match rule:
        case "ratio_at_least":
            return ratio is not None and ratio >= bound
        case "ratio_at_most":
            return ratio is not None and ratio <= bound
        case "ours_at_most":
            return max(measured.ours) <= bound
    raise ValueError(f"{TARGETS.name}: unknown rule {rule!r}, not one of {', '.join(_RULES)}")


def judged(bench: str, found: Sequence[Measured]) -> list[dict[str, object]]:
    """One row for each target of this bench and each further measure, as in the JSON file."""
    targets: dict[str, dict[str, float]] = tomllib.loads(TARGETS.read_text()).get(bench, {})
    by_name = {measured.measure: measured for measured in found}
    rows = [_row(name, target, by_name.pop(name, None)) for name, target in targets.items()]
    return rows + [_row(name, None, measured) for name, measured in by_name.items()]


def report(bench: str, found: Sequence[Measured]) -> bool:
    """Print the table and write ``build/bench/BENCH.json``; True when every target is met."""
    rows = judged(bench, found)
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / f"{bench}.json").write_text(json.dumps(rows, indent=2) + "\n")
    Console(width=max(Console().width, 150)).print(_table(bench, rows))
    return all(row["met"] is not False for row in rows)


def _row(
    name: str, target: Mapping[str, float] | None, measured: Measured | None
) -> dict[str, object]:
    row: dict[str, object] = {
        "measure": name,
        "ours": _median(measured.ours) if measured else None,
        "peer": _median(measured.peer) if measured else None,
        "peer_name": measured.peer_name if measured else None,
        "ratio": measured.ratio if measured else None,
        "unit": measured.unit if measured else None,
        "runs": len(measured.ours) if measured else 0,
        "target": next(iter(target.values())) if target else None,
        "met": met(target, measured) if target else None,
    }
    return row | {
        "rule": next(iter(target)) if target else None,
        "ours_range": _range(measured.ours) if measured else None,
        "peer_range": _range(measured.peer) if measured else None,
        "note": measured.note if measured else "did not run",
    }


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _range(values: Sequence[float]) -> list[float] | None:
    return [min(values), max(values)] if values else None


def _table(bench: str, rows: Sequence[Mapping[str, object]]) -> Table:
    table = Table(title=f"bench {bench}", title_justify="left")
    for heading in ("measure", "ours [min-max]", "peer [min-max]", "ratio", "target", "met"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for row in rows:
        rule = _RULES[str(row["rule"])].format(row["target"]) if row["rule"] else "-"
        ratio = row["ratio"]
        table.add_row(
            f"{row['measure']}\n[dim]{row['peer_name'] or ''} {row['note'] or ''}[/dim]",
            _shown(row["ours"], row["ours_range"], row["unit"]),
            _shown(row["peer"], row["peer_range"], row["unit"]),
            f"{ratio:.2f}" if isinstance(ratio, float) else "-",
            rule,
            {True: "yes", False: "[red]NO[/red]", None: "-"}[row["met"]],  # type: ignore[index]
        )
    return table


def _shown(median: object, bounds: object, unit: object) -> str:
    if not isinstance(median, (int, float)) or not isinstance(bounds, list):
        return "-"
    low, high = bounds
    return f"{median:,.4g} {unit}\n[dim]\\[{low:,.4g}-{high:,.4g}][/dim]"
