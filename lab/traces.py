"""When GPUs were really taken away: traces of availability as losses of a run.

A trace is JSON: ``{"metadata": {"gap_seconds": N}, "data": [...]}``, where ``data[i]`` is how many
machines could be had at second ``i * N``. Published sets of spot preemptions have this form (Wu et
al., "Can't Be Late", NSDI 2024); none is shipped here. ``synthetic`` makes one of our own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

from lab.faults import Loss

MEAN_UP_HOURS = 1.5
MEAN_DOWN_MINUTES = 12.0
GAP_SECONDS = 30.0


class TraceError(ValueError):
    """This is no trace; the message says why."""


@dataclass(frozen=True, slots=True)
class Trace:
    """``available[i]``: whether a machine could be had from ``i * gap`` seconds on."""

    gap: float
    available: tuple[bool, ...]

    @property
    def hours(self) -> float:
        return len(self.available) * self.gap / 3600

    def outages(self) -> Iterator[tuple[float, float]]:
        """Each loss as (seconds after the one before it ended, seconds that it lasted)."""
        changes = [0, *self._changes(), len(self.available)]
        up = self.available[0] if self.available else True
        since = 0.0
        for begin, end in pairwise(changes):
            seconds = (end - begin) * self.gap
            if up:
                since = seconds
            else:
                yield since, seconds
            up = not up

    def losses(self, chance: Random) -> Iterator[Loss]:
        """The outages as losses: the market stops the machine, and may resume it afterwards."""
        for up, down in self.outages():
            returns = down if chance.random() < 0.5 else 0.0
            yield Loss(gap=up, mode="outbid" if returns else "gone", returns=returns)

    def _changes(self) -> list[int]:
        return [i + 1 for i, (a, b) in enumerate(pairwise(self.available)) if a != b]


def read(path: Path) -> Trace:
    """Raises TraceError."""
    try:
        raw = json.loads(path.read_text())
        gap, data = float(raw["metadata"]["gap_seconds"]), raw["data"]
        wanted = max(1, *(int(count) for count in data))
        return Trace(gap, tuple(int(count) >= wanted for count in data))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{path}: not metadata.gap_seconds and data[] as expected: {error}"
        raise TraceError(reason) from None


def synthetic(chance: Random, *, hours: float) -> Trace:
    """A market with exponential times between losses and until there is room again."""
    available: list[bool] = []
    up = True
    while len(available) * GAP_SECONDS < hours * 3600:
        mean = MEAN_UP_HOURS * 3600 if up else MEAN_DOWN_MINUTES * 60
        ticks = max(1, round(chance.expovariate(1 / mean) / GAP_SECONDS))
        available.extend([up] * ticks)
        up = not up
    return Trace(GAP_SECONDS, tuple(available))
