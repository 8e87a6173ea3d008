"""Many seeds on a few processes, and what came of them all together."""

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import TypeVar

import structlog

from lab.faults import KINDS
from lab.oracle import Finding
from lab.world import Plan, play

A = TypeVar("A")
B = TypeVar("B")

WORKERS = 2
SEEDS_FOR_COVERAGE = 100
"""From so many seeds on, a run that never met one of these is a run that proves nothing."""

SOMETIMES = (
    *(f"fault: {kind}" for kind in KINDS),
    *(f"gpu: {mode}" for mode in ("outbid", "gone", "silent")),
    *(f"gpu: {mode} and returned" for mode in ("outbid", "silent", "offline")),
    "candidate: lost",
    "event: EffectFailing",
    "event: FailbackAborted",
    "event: FailoverRefused",
    "event: OrphanDestroyed",
    "event: PrimaryFenced",
    "event: ProvisionFailed gpu lost",
    "event: ProvisionFailed gpu prepare",
    "event: ProvisionFailed gpu rent",
    "event: ProvisionFailed gpu restore",
    "event: ProvisionFailed gpu search",
    "event: ProvisionFailed gpu ssh",
    "event: ProvisionFailed standby prepare",
    "event: RecoveryCompleted",
    "event: RecoveryHalted",
    "event: RestoreFailed",
    "event: RollbackRefused",
    "event: RollbackRequested",
    "event: StandbyLost",
    "event: StandbyRestored",
    "event: StandbyThawed",
    "event: SyncFailed",
    "event: WaitEnded",
    "event: WorkspacePaused",
    "event: WorkspaceResumed",
    "event: ZombieSeen",
    "gate: stale epoch refused",
    "people: answered a halt",
    "people: wrote on the gpu",
    "people: wrote on the standby",
    "takeover: another replica acts",
    "transfer: broke",
    "vast: answer lost",
    "vast: call lost",
    "vast: destroy lies",
    "vast: empty list",
    "vast: refused and left behind",
)


@dataclass(frozen=True, slots=True)
class Result:
    """One seed, small enough to go from process to process."""

    seed: int
    findings: tuple[Finding, ...]
    met: dict[str, int]
    failovers: int
    events: int
    hours: float
    digest: str


@dataclass(slots=True)
class Total:
    """What came of all seeds so far."""

    seeds: int = 0
    failovers: int = 0
    fewest_failovers: int = 1 << 30
    events: int = 0
    hours: float = 0.0
    seconds: float = 0.0
    met: Counter[str] = field(default_factory=Counter)
    failed: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.failovers += result.failovers
        self.fewest_failovers = min(self.fewest_failovers, result.failovers)
        self.events += result.events
        self.hours += result.hours
        self.met.update(result.met)
        if result.findings:
            self.failed.append(result)

    @property
    def never_met(self) -> list[str]:
        """What should have happened somewhere; empty for a run too small to expect it."""
        if self.seeds < SEEDS_FOR_COVERAGE:
            return []
        return [what for what in SOMETIMES if not self.met[what]]

    @property
    def ok(self) -> bool:
        return not self.failed and not self.never_met


def prepare() -> None:
    """Make a process fit for many runs."""
    quiet()
    # A run leaves its garbage at its end. Looking for some meanwhile, in libraries that are there
    # for ever besides, takes an eighth of its time.
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def quiet() -> None:
    """Services log nothing here: the story is told from the event log."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=True,
    )


def one(plan: Plan) -> Result:
    """Play one plan in this process."""
    verdict = play(plan)
    return Result(
        seed=verdict.seed,
        findings=verdict.findings,
        met=verdict.met,
        failovers=verdict.failovers,
        events=verdict.events,
        hours=verdict.hours,
        digest=verdict.digest,
    )


def run(
    plan: Plan,
    seeds: Sequence[int],
    *,
    workers: int = WORKERS,
    on_result: Callable[[Total, Result], None] = lambda _, __: None,
) -> Total:
    """Play ``plan`` with every seed."""
    total, began = Total(), time.perf_counter()
    for result in spread(one, [replace(plan, seed=seed) for seed in seeds], workers=workers):
        total.add(result)
        total.seconds = time.perf_counter() - began
        on_result(total, result)
    return total


def spread(work: Callable[[A], B], things: Sequence[A], *, workers: int) -> Iterator[B]:
    """``work`` done on each thing, in order, on so many processes."""
    if workers == 1 or len(things) == 1:
        yield from map(work, things)
        return
    # Spawned, not forked: a child begins as every other run of the lab does.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=prepare) as pool:
        yield from pool.map(work, things, chunksize=max(1, min(8, len(things) // workers)))
