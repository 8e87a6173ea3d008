"""A failing seed with as few faults as still break the same promise."""

from collections.abc import Callable
from dataclasses import replace

from lab.world import Plan, planned, play

Breaks = Callable[[Plan], bool]
RUNS_MAX = 120


def shrink(plan: Plan, promise: str) -> Plan:
    """Leave out halves, quarters, and single faults, as long as ``promise`` still breaks."""

    def breaks(candidate: Plan) -> bool:
        return any(finding.promise == promise for finding in play(candidate).findings)

    return shrunk(plan, len(planned(plan)), breaks)


def shrunk(plan: Plan, faults: int, breaks: Breaks) -> Plan:
    """The same for any way to see that it still breaks; at most RUNS_MAX runs."""
    left = [number for number in range(faults) if number not in plan.without]
    size, runs = max(1, len(left) // 2), 0
    while size and left and runs < RUNS_MAX:
        for start in range(0, len(left), size):
            fewer = left[:start] + left[start + size :]
            candidate = replace(plan, without=frozenset(range(faults)) - set(fewer))
            runs += 1
            if breaks(candidate):
                plan, left = candidate, fewer
                break
        else:
            size //= 2
    return plan
