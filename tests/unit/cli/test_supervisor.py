"""The parent of an embedded stack: order, restarts, and nothing left behind."""

import signal
import stat
from pathlib import Path

import pytest

from cli.embedded import control, processes, run_file
from cli.embedded.supervisor import BACKOFF_MAX, BACKOFF_MIN, next_backoff
from tests.support.faults import fault
from tests.support.waiting import eventually
from tests.unit.cli.children import child, supervised


def test_a_child_starts_when_what_it_needs_is_ready(tmp_path: Path) -> None:
    with supervised(tmp_path) as layout:
        log = layout.supervisor_log
        assert not log.exists()  # its standard error is ours here
        run = run_file.read(layout.run_file)
        assert run is not None
        assert list(run.children) == ["server", "setup", "worker"]
        assert child(layout, "setup").process is None  # done, and that is its readiness
        assert child(layout, "setup").ready
        assert layout.log("setup").read_text() == "set up\n"


@fault(16)
def test_a_killed_child_lives_again_and_the_run_file_says_so(tmp_path: Path) -> None:
    with supervised(tmp_path) as layout:
        first = child(layout, "worker").process
        assert first is not None
        processes.send(first, signal.SIGKILL)
        eventually(lambda: child(layout, "worker").restarts == 1, "its end is noticed")
        second = eventually(lambda: child(layout, "worker").process, "it lives again")
        assert second != first
        assert processes.alive(second)
        assert child(layout, "worker").restarts == 1


def test_a_restarted_child_is_ready_only_when_it_says_so_again(tmp_path: Path) -> None:
    with supervised(tmp_path) as layout:
        first = child(layout, "server").process
        assert first is not None
        processes.send(first, signal.SIGKILL)
        eventually(lambda: child(layout, "server").restarts == 1, "its end is noticed")
        eventually(lambda: child(layout, "server").ready, "it is ready again")
        assert (layout.ready / "server").exists()


@fault(25)
def test_a_child_that_is_stuck_is_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path) as layout:
        first = child(layout, "server").process
        trouble = layout.ready / "trouble"
        trouble.touch()
        eventually(lambda: child(layout, "server").restarts == 1, "it is ended")
        trouble.unlink()
        second = eventually(lambda: child(layout, "server").process, "it lives again")
        assert second != first
        eventually(lambda: child(layout, "server").ready, "it is ready again")


def test_down_ends_every_process_and_may_be_repeated(tmp_path: Path) -> None:
    with supervised(tmp_path) as layout:
        run = run_file.read(layout.run_file)
        assert run is not None
        assert control.end(layout) == 3  # the supervisor, the server, the worker
        assert not any(processes.alive(process) for process in run.processes())
        assert not layout.run_file.exists()
        assert control.end(layout) == 0


def test_children_of_a_killed_supervisor_are_found_and_ended(tmp_path: Path) -> None:
    with supervised(tmp_path) as layout:
        run = run_file.read(layout.run_file)
        assert run is not None
        processes.send(run.supervisor, signal.SIGKILL)
        eventually(lambda: not processes.alive(run.supervisor), "the supervisor is dead")
        assert control.running(layout) is None
        assert control.end(layout) == 2
        assert not any(processes.alive(process) for process in run.processes())


def test_orphans_are_found_even_without_a_run_file(tmp_path: Path) -> None:
    with supervised(tmp_path) as layout:
        run = run_file.read(layout.run_file)
        assert run is not None
        processes.send(run.supervisor, signal.SIGKILL)
        layout.run_file.unlink()
        assert control.end(layout) >= 2
        assert not any(processes.alive(process) for process in run.processes())


def test_a_stranger_with_a_recycled_number_is_never_signalled(tmp_path: Path) -> None:
    with supervised(tmp_path) as layout:
        worker = child(layout, "worker").process
        assert worker is not None
        recycled = processes.Process(worker.pid, "another boot:1")
        assert not processes.send(recycled, signal.SIGKILL)
        assert processes.alive(worker)


def test_what_is_written_is_for_its_owner_alone(tmp_path: Path) -> None:
    with supervised(tmp_path) as layout:
        for path in (layout.run_file, layout.log("server")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for path in (layout.secrets, layout.keys):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


@fault(19, 21)
def test_the_wait_before_a_restart_grows_to_its_bound() -> None:
    waits = [BACKOFF_MIN]
    for _ in range(10):
        waits.append(next_backoff(waits[-1], lived=0.1))
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits[-1] == BACKOFF_MAX


@pytest.mark.parametrize("lived", [10.0, 3600.0])
def test_a_child_that_had_been_steady_starts_again_at_once(lived: float) -> None:
    assert next_backoff(BACKOFF_MAX, lived) == BACKOFF_MIN
