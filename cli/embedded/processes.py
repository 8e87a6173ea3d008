"""Processes by more than their number: a pid is ours only while its start time still fits.

A pid is used again some day; killing by pid alone would end a stranger. Every signal here goes
through a pidfd that was opened before the identity was checked, so nothing can change between.
"""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MARK = "DUMONT_STACK"
"""Environment variable that every process of a stack inherits: the stack's directory."""

_PROC = Path("/proc")
_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """``started`` is the boot's id and the start time in clock ticks: with the pid it is unique."""

    pid: int
    started: str


def identify(pid: int) -> Process | None:
    """The process with this number now, None when there is none (or only its zombie)."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name in the second field may hold spaces and brackets: count from the last bracket.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"}:
        return None
    return Process(pid, f"{boot}:{fields[19]}")


def alive(process: Process) -> bool:
    return identify(process.pid) == process


def send(process: Process, signum: signal.Signals) -> bool:
    """Signal exactly this process; False when it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(descriptor, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_gone(processes: Iterable[Process], seconds: float) -> list[Process]:
    """Wait until none is alive, at most so long; returns those that still are."""
    deadline = time.monotonic() + seconds
    left = [process for process in processes if alive(process)]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL)
        left = [process for process in left if alive(process)]
    return left


def end(processes: Iterable[Process], *, grace: float) -> list[Process]:
    """SIGTERM, then SIGKILL to what is left after ``grace`` seconds; returns what will not die."""
    targets = [process for process in processes if send(process, signal.SIGTERM)]
    stubborn = wait_gone(targets, grace)
    for process in stubborn:
        send(process, signal.SIGKILL)
    return wait_gone(stubborn, 5.0)


def marked(directory: Path) -> list[Process]:
    """Every live process that was started as part of the stack in ``directory``.

    This finds also what a supervisor started and had no time to write down before it was killed.
    """
    wanted = f"{MARK}={directory}".encode()
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # gone, or somebody else's
        if wanted in environment.split(b"\0") and (process := identify(int(entry.name))):
            found.append(process)
    return found
