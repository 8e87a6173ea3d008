"""What a process is told by its environment, and the name that it gives itself."""

import subprocess
import sys
from pathlib import Path

from shared.environment import Environment
from tests.support.faults import fault

ROOT = Path(__file__).resolve().parents[3]

NAME = (
    "from shared.environment import Environment as E; print(E({}).replica(), flush=True); input()"
)


def test_a_process_has_the_name_that_it_was_given() -> None:
    assert Environment({"DUMONT_REPLICA": "recovery-2"}).replica() == "recovery-2"


@fault(51)
def test_two_processes_without_a_name_are_never_one_to_the_log() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", NAME],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = []
    for process in processes:
        assert process.stdout is not None
        said.append(process.stdout.readline())
    for process in processes:
        process.communicate("\n", timeout=60)
    assert all(said)
    assert said[0] != said[1]


def test_no_container_shares_its_name_with_another_of_its_service() -> None:
    assert "DUMONT_REPLICA" not in (ROOT / "deploy" / "compose.yml").read_text()
