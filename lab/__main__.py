"""``python -m lab``: seeds, crash pairs, stored stories. Exit code 1 when a promise broke."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from lab import campaign, pairs, regressions, traces
from lab.campaign import Result, Total
from lab.shrink import shrink
from lab.traces import Trace
from lab.world import Plan, Verdict, play
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
    sim.add_argument("--only", default="", help="only faults of these kinds: bus.down,log.slow")
    sim.add_argument("--story", action="store_true", help="tell what happened, whatever the end")
    sim.add_argument("--shrink", action="store_true", help="leave out faults that do not matter")
    sim.add_argument("--keep", type=Path, help="store a failing seed in this file")
    sim.add_argument(
        "--trace",
        type=Path,
        action="append",
        default=[],
        help="lose GPUs as in this JSON trace, or as in one made up: synthetic",
    )
    sim.set_defaults(run=_sim)
    crash = verbs.add_parser("pairs", help="kill the services at all pairs of crash points")
    crash.add_argument("--workers", type=int, default=campaign.WORKERS)
    crash.set_defaults(run=_pairs)
    verbs.add_parser("regressions", help="play the stored stories").set_defaults(run=_regressions)
    given = parser.parse_args(argv)
    campaign.prepare()
    code: int = given.run(given)
    return code


# --- seeds


def _sim(given: argparse.Namespace) -> int:
    first = given.seed if given.seed is not None else _fresh()
    plan = Plan(
        seed=first,
        hours=given.hours,
        without=frozenset(int(number) for number in given.without.split(",") if number),
        only=tuple(kind for kind in given.only.split(",") if kind),
        traces=tuple(_trace(path, first) for path in given.trace),
    )
    if given.seeds == 1:
        return _one(plan, given)
    print(f"seeds {first} to {first + given.seeds - 1}, {given.hours:g} virtual hours each")
    seeds = range(first, first + given.seeds)
    total = campaign.run(plan, seeds, workers=given.workers, on_result=_progress)
    for result in total.failed[:SHOWN_MAX]:
        again = Plan(seed=result.seed, hours=plan.hours, without=plan.without, only=plan.only)
        _tell(again, play(again), story=True)
    _tell_total(total)
    return 0 if total.ok else 1


def _fresh() -> int:
    """A seed that was never played: it grows with the time."""
    return int(now().timestamp() * 10)


def _trace(path: Path, seed: int) -> Trace:
    if str(path) == "synthetic":
        return traces.synthetic(Random(seed), hours=48)
    return traces.read(path)


def _one(plan: Plan, given: argparse.Namespace) -> int:
    verdict = play(plan)
    if given.shrink and not verdict.ok:
        plan = shrink(plan, verdict.findings[0].promise)
        verdict = play(plan)
    _tell(plan, verdict, story=given.story or not verdict.ok)
    if given.keep is not None and not verdict.ok:
        regressions.store(plan, verdict.findings[0].promise, given.keep)
    return 0 if verdict.ok else 1


def _tell(plan: Plan, verdict: Verdict, *, story: bool) -> None:
    if story:
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


def replay(plan: Plan) -> str:
    """The command line that plays a plan again."""
    words = ["dumont sim", f"--seed {plan.seed}", f"--hours {plan.hours:g}", "--story"]
    if plan.only:
        words.append(f"--only {','.join(plan.only)}")
    if plan.without:
        words.append(f"--without {','.join(str(number) for number in sorted(plan.without))}")
    return " ".join(words)


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
    if total.failed:
        print(f"{len(total.failed)} of {total.seeds} seeds BROKE a promise")
    elif total.ok:
        print("every promise held")


# --- crash pairs and stored stories


def _pairs(given: argparse.Namespace) -> int:
    began = time.perf_counter()
    kills: Counter[int] = Counter()
    broken = 0
    for outcome in pairs.everywhere(given.workers):
        kills[len(outcome.kills)] += 1
        if outcome.findings:
            broken += 1
            where = ", then ".join(map(str, outcome.kills)) or "nowhere"
            print(f"BROKEN when killed {where}: {outcome.findings[0]}", flush=True)
    seconds = time.perf_counter() - began
    print(
        f"{kills[1]} crash points alone, and {kills[2]} pairs of them, in {seconds:.0f} s: "
        f"{broken} broke a promise"
    )
    return 1 if broken else 0


def _regressions(_: argparse.Namespace) -> int:
    broken = 0
    for story in regressions.stored():
        verdict = play(story.plan)
        print(f"{story.name}: {'ok' if verdict.ok else 'BROKEN'}: {story.why}")
        if not verdict.ok:
            broken += 1
            _tell(story.plan, verdict, story=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
