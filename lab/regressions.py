"""Stories that once broke a promise, kept for ever: each file in ``regressions/`` is one.

The faults are stored as they were, not the seed alone: another kind of fault in the lab changes
what a seed plans, and a story must stay the same story.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.faults import Fault
from lab.world import Plan, planned

DIRECTORY = Path(__file__).parent / "regressions"


@dataclass(frozen=True, slots=True)
class Stored:
    """``why`` says which promise broke, and what mended it."""

    name: str
    why: str
    plan: Plan


def stored(directory: Path = DIRECTORY) -> Iterator[Stored]:
    """All of them, by name."""
    for path in sorted(directory.glob("*.json")):
        raw = json.loads(path.read_text())
        faults = tuple(Fault(**fault) for fault in raw["faults"])
        plan = Plan(
            seed=raw["seed"],
            hours=raw["hours"],
            failovers_min=raw.get("failovers_min", 0),
            faults=faults,
        )
        yield Stored(path.stem, raw["why"], plan)


def store(plan: Plan, why: str, path: Path) -> None:
    """Keep a plan that broke a promise."""
    kept = [fault for n, fault in enumerate(planned(plan)) if n not in plan.without]
    body = {
        "why": why,
        "seed": plan.seed,
        "hours": plan.hours,
        "failovers_min": plan.failovers_min,
        "faults": [fault.as_json() for fault in kept],
    }
    path.write_text(json.dumps(body, indent=2) + "\n")
