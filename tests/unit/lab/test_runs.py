"""A run is its seed's alone, and without one of the guards it is seen to break."""

import subprocess
import sys
from dataclasses import replace
from typing import NoReturn

import pytest

from lab.campaign import Result, Total
from lab.faults import Fault
from lab.oracle import Finding
from lab.shrink import shrunk
from lab.world import Guards, Plan, play
from tests.support.faults import fault

SMALL = Plan(seed=3, hours=0.5, failovers_min=0)
SEEDS_MAX = 8

DIGEST = """
from lab.campaign import quiet
from lab.world import Plan, play
quiet()
print(play(Plan(seed=3, hours=0.5, failovers_min=0)).digest)
"""


def digest(hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", DIGEST],
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_seed_is_the_same_run_in_every_process() -> None:
    first = digest("0")
    assert first
    assert digest("12345") == first
    assert play(SMALL).digest == first


def test_a_run_draws_from_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_: object) -> NoReturn:
        raise AssertionError("this run would be another one the next time")

    for real in ("random.random", "secrets.randbits", "time.time_ns", "time.clock_gettime"):
        monkeypatch.setattr(real, drawn)
    # Everybody waits, with pauses that are drawn.
    away = [Fault(at=900.0, kind=kind, seconds=600.0) for kind in ("log.silent", "bus.down")]
    verdict = play(replace(SMALL, faults=tuple(away)))
    assert verdict.findings == ()


def test_two_seeds_are_two_runs() -> None:
    assert play(SMALL).digest != play(replace(SMALL, seed=4)).digest


def test_hours_of_faults_pass_and_every_promise_holds() -> None:
    verdict = play(SMALL)
    assert verdict.findings == ()
    assert verdict.hours > 0.5
    assert verdict.met["event: RecoveryCompleted"] >= 3


BROKEN_GUARDS = [
    pytest.param(
        Guards(epoch_on_host=False),
        ("process.pause", "bus.down", "bus.blind-watch"),
        40.0,
        "a lower epoch never writes",
        id="the host takes orders of any epoch",
    ),
    pytest.param(
        Guards(sealed_only=False),
        ("transfers.break",),
        20.0,
        "what is promoted is sealed and the newest",
        id="what was not sealed is promoted",
    ),
]


@pytest.mark.parametrize(("guards", "only", "a_hour", "promise"), BROKEN_GUARDS)
def test_a_guard_that_is_taken_away_is_missed(
    guards: Guards, only: tuple[str, ...], a_hour: float, promise: str
) -> None:
    for seed in range(1, SEEDS_MAX + 1):
        plan = Plan(seed=seed, hours=2.0, a_hour=a_hour, only=only, failovers_min=0, guards=guards)
        if promise in {finding.promise for finding in play(plan).findings}:
            return
    pytest.fail(f"{SEEDS_MAX} seeds without it, and nobody saw: {promise}")


ONE_STORY = {
    "the log has no gaps",
    "each fact is in the log once",
    "epochs only grow",
    "one primary an epoch",
    "recovery's state is the fold of the log",
}
"""What the lease and the version each keep, so that one hides that the other is gone."""

TWO_ACT = Plan(
    seed=0,
    hours=1.0,
    a_hour=20.0,
    only=("process.pause", "process.kill", "log.silent"),
    failovers_min=0,
)


def broken(guards: Guards, plan: Plan, seeds: range) -> set[str]:
    found = (play(replace(plan, seed=seed, guards=guards)).findings for seed in seeds)
    return {finding.promise for findings in found for finding in findings}


@fault(17)
def test_the_lease_alone_keeps_every_promise() -> None:
    assert not broken(Guards(version=False), TWO_ACT, range(1, 4))


@fault(17)
@pytest.mark.full
def test_without_the_lease_the_version_keeps_the_log_one_story_but_not_the_world() -> None:
    promises = broken(Guards(lease=False), TWO_ACT, range(1, 4))
    assert not promises & ONE_STORY
    assert "no machine in service is ended" in promises


@fault(17)
@pytest.mark.full
def test_without_lease_and_version_two_write_two_stories() -> None:
    plan = replace(TWO_ACT, hours=0.3, only=("process.pause",))
    assert "recovery's state is the fold of the log" in broken(
        Guards(lease=False, version=False), plan, range(1, SEEDS_MAX)
    )


def test_a_failing_plan_shrinks_to_the_faults_that_matter() -> None:
    def breaks(plan: Plan) -> bool:
        return not {3, 11} & plan.without

    assert shrunk(SMALL, 20, breaks).without == frozenset(range(20)) - {3, 11}


def test_seeds_that_never_met_a_fault_prove_nothing() -> None:
    total = Total()
    for seed in range(100):
        total.add(Result(seed, (), {}, failovers=9, events=1, hours=4, digest=""))
    assert not total.failed
    assert "fault: process.kill" in total.never_met
    assert not total.ok


def test_one_broken_promise_fails_all() -> None:
    total = Total()
    found = Finding(1.0, "one primary an epoch", "two of them")
    total.add(Result(1, (found,), {}, failovers=9, events=1, hours=4, digest=""))
    assert not total.ok
