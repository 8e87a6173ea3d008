"""``python -m lab``: seeds, crash pairs, stored seeds, traces. Exit code 1 when a promise broke."""

import argparse
import sys
from collections.abc import Sequence

from lab import campaign
from lab.campaign import Result, Total
from lab.world import Plan, play
from shared.clock import now

SHOWN_MAX = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    sim = verbs.add_parser("sim", help="play seeds")
    sim.add_argument("--seed", type=int, help="the first seed [default: from the time]")
    sim.add_argument("--seeds", type=int, default=1, help="how many, from the first on")
    sim.add_argument("--hours", type=float, default=4.0, help="virtual hours of faults")
    sim.add_argument("--workers", type=int, default=campaign.WORKERS)
    sim.add_argument("--without", default="", help="numbers of faults to leave out: 3,5,7")
    sim.add_argument("--story", action="store_true", help="tell what happened, whatever the end")
    sim.set_defaults(run=_sim)
    given = parser.parse_args(argv)
    campaign.quiet()
    code: int = given.run(given)
    return code


def _sim(given: argparse.Namespace) -> int:
    first = given.seed if given.seed is not None else _fresh()
    without = frozenset(int(number) for number in given.without.split(",") if number)
    plan = Plan(seed=first, hours=given.hours, without=without)
    if given.seeds == 1:
        return _one(plan, story=given.story)
    print(f"seeds {first} to {first + given.seeds - 1}, {given.hours:g} virtual hours each")
    total = campaign.run(
        plan, range(first, first + given.seeds), workers=given.workers, on_result=_progress
    )
    _tell_total(total)
    for result in total.failed[:SHOWN_MAX]:
        _one(Plan(seed=result.seed, hours=given.hours, without=without), story=True)
    return 0 if total.ok else 1


def _fresh() -> int:
    """A seed that was never played: it grows with the time."""
    return int(now().timestamp() * 10)


def _one(plan: Plan, *, story: bool) -> int:
    verdict = play(plan)
    if story or not verdict.ok:
        for line in verdict.story.lines():
            print(line)
    print(
        f"seed {verdict.seed}: {'ok' if verdict.ok else 'BROKEN'}, {verdict.failovers} failovers, "
        f"{verdict.events} events, {verdict.hours:.1f} virtual hours, digest {verdict.digest[:16]}"
    )
    for finding in verdict.findings:
        print(f"  BROKEN at {finding.at:.1f} s: {finding.promise}: {finding.what}")
    if not verdict.ok:
        print(f"  play it again with: {replay(plan)}")
    return 0 if verdict.ok else 1


def replay(plan: Plan) -> str:
    """The command line that plays a plan again."""
    without = ",".join(str(number) for number in sorted(plan.without))
    return f"dumont sim --seed {plan.seed} --hours {plan.hours:g} --story" + (
        f" --without {without}" if without else ""
    )


def _progress(total: Total, result: Result) -> None:
    if result.findings:
        print(f"seed {result.seed}: BROKEN: {result.findings[0].promise}", flush=True)
    elif total.seeds % 100 == 0:
        print(f"{total.seeds} seeds, {_pace(total):.0f} a minute", flush=True)


def _pace(total: Total) -> float:
    return 60 * total.seeds / max(total.seconds, 0.001)


def _tell_total(total: Total) -> None:
    print(
        f"{total.seeds} seeds in {total.seconds:.1f} s: {_pace(total):.0f} seeds a minute, "
        f"{total.hours:.0f} virtual hours, {total.failovers} failovers "
        f"(fewest in a seed: {total.fewest_failovers}), {total.events} events"
    )
    for what in total.never_met:
        print(f"NEVER MET: {what}: these seeds prove nothing about it")
    verdict = "every promise held" if total.ok else f"{len(total.failed)} seeds BROKE a promise"
    print(verdict)


if __name__ == "__main__":
    sys.exit(main())
