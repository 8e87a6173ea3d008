"""Places where a test may stop a process: nothing by default, exactly once when armed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import failpoints

PASS_TWICE = """
import sys
from pathlib import Path
from shared import failpoints
failpoints.arm_from(Path(sys.argv[1]))
for _ in range(2):
    failpoints.reach("effect.before", "RentGpu")
print("lived")
"""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def test_a_place_that_nobody_armed_does_nothing() -> None:
    failpoints.reach("effect.before", "RentGpu")


def test_an_armed_place_says_its_name() -> None:
    passed: list[str] = []
    failpoints.arm(passed.append)
    failpoints.reach("effect.before", "RentGpu")
    assert passed == ["effect.before:RentGpu"]


def test_a_process_dies_once_at_an_armed_place_and_passes_it_afterwards(tmp_path: Path) -> None:
    (tmp_path / "effect.before:RentGpu").write_text("kill\n")
    command = [sys.executable, "-c", PASS_TWICE, str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -9
    assert not list(tmp_path.iterdir())
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.stdout == "lived\n"
