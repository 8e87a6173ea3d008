"""The main job as a user meets it: one command, one verdict, an exit code that can be trusted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import fault
from tests.support.sampling import sampled

SMALL = "16"
SECONDS = 240

pytestmark = pytest.mark.timeout(SECONDS + 30)


def demo(
    *arguments: str, size: str = SMALL, seconds: float = SECONDS
) -> tuple[int, dict[str, Any], str]:
    """Run the demo; its exit code, the object that it printed, and what it told on the way."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "demo", "--json", "--size", size, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout), done.stderr


def assert_every_promise_held(code: int, result: dict[str, Any], told: str) -> None:
    broken = [promise for promise in result["promises"] if not promise["held"]]
    assert (code, result["ok"], broken, result["failure"]) == (0, True, [], ""), told[-4000:]
    assert result["restore_verified"] is True
    assert result["machines_billed"] == 1
    assert result["double_billed_seconds"] == 0
    assert result["lost_writes_at_failback"] == 0
    assert result["failover_seconds"] <= 2


def test_a_lost_gpu_is_survived_and_every_promise_held() -> None:
    code, result, told = demo()
    assert_every_promise_held(code, result, told)
    events = [entry["event"] for entry in result["timeline"]]
    named = (
        "HealthFailed",
        "ThresholdReached",
        "FailoverCompleted",
        "GpuProvisioned",
        "RestoreDone",
    )
    assert all(name in events for name in named)
    assert events.count("HealthFailed") >= 3
    assert events.index("ThresholdReached") < events.index("FailoverStarted")


def test_a_directory_of_yours_comes_back_equal_by_hash() -> None:
    code, result, told = demo("--workspace", "/usr/share/doc")
    assert_every_promise_held(code, result, told)


@pytest.mark.full
def test_the_demo_at_its_full_size() -> None:
    code, result, told = demo(size="256")
    assert_every_promise_held(code, result, told)


FAULTS = [
    ("ssh-never-comes", "ProvisionFailed"),
    ("offer-vanishes", "ProvisionFailed"),
    ("create-answer-lost", None),
    ("zombie-early", "ZombieSeen"),
    ("haproxy-restart", None),
]


@pytest.mark.parametrize(("name", "trace"), sampled(FAULTS, 1))
def test_whatever_goes_wrong_on_the_way_it_ends_recovered_with_one_gpu_billed(
    name: str, trace: str | None
) -> None:
    code, result, told = demo("--fault", name)
    assert_every_promise_held(code, result, told)
    events = [entry["event"] for entry in result["timeline"]]
    assert trace is None or trace in events


@pytest.mark.parametrize("service", sampled(["health", "sync", "recovery", "api"], 1))
def test_killing_a_service_in_the_middle_of_it_changes_nothing(service: str) -> None:
    code, result, told = demo("--fault", f"crash:{service}")
    assert f"kill -9 {service}" in told
    assert_every_promise_held(code, result, told)


SABOTAGES = [
    ("skip-file", "what is on the new GPU is what was on the standby"),
    ("rent-twice", "one GPU is billed at the end"),
    ("leave-endpoint", "the standby serves within 2 s of the threshold"),
    ("drop-last-delta", "every write acknowledged by the standby is on the new GPU"),
]


@pytest.mark.parametrize(("sabotage", "promise"), sampled(SABOTAGES, 1))
def test_the_judge_sees_each_sabotage(sabotage: str, promise: str) -> None:
    code, result, told = demo("--sabotage", sabotage)
    assert (code, result["ok"]) == (1, False), told[-3000:]
    broken = {p["name"] for p in result["promises"] if not p["held"]}
    assert promise in broken


FLEET_SECONDS = 900


@fault(100, 54)
@pytest.mark.timeout(FLEET_SECONDS + 30)
@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.full)])
def test_workspaces_that_lose_their_gpus_in_the_same_second_are_all_recovered_and_billed_once(
    count: int,
) -> None:
    code, result, told = demo("--workspaces", str(count), size="2", seconds=FLEET_SECONDS)
    broken = [promise for promise in result["promises"] if not promise["held"]]
    assert (code, result["ok"], broken, result["failure"]) == (0, True, [], ""), told[-8000:]
    assert result["machines_billed"] == count
    assert result["double_billed_seconds"] == 0
    assert result["restore_verified"] is True
    each = result["workspaces"]
    assert len(each) == count
    assert all(one["machines_billed"] == 1 for one in each)


@fault(53)
@pytest.mark.timeout(FLEET_SECONDS + 30)
@pytest.mark.parametrize(
    ("silence", "count"),
    [
        ("silence", 2),
        pytest.param("silence", 10, marks=pytest.mark.full),
        pytest.param("silence-alone", 5, marks=pytest.mark.full),
    ],
)
def test_when_nobody_answers_nothing_is_rented_people_are_told_and_it_goes_on_by_itself(
    silence: str, count: int
) -> None:
    code, result, told = demo(
        "--workspaces", str(count), "--fault", silence, size="2", seconds=FLEET_SECONDS
    )
    broken = [promise for promise in result["promises"] if not promise["held"]]
    assert (code, result["ok"], broken, result["failure"]) == (0, True, [], ""), told[-8000:]
    assert {"nothing was rented", "nothing was given up", "people were told"} <= {
        promise["name"] for promise in result["promises"]
    }
    assert result["machines_billed"] == count


def test_an_unknown_fault_says_what_there_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "demo", "--fault", "gremlins"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "ssh-never-comes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_workspace_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "demo", "--workspace", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is not a directory" in done.stderr
