"""Which process groups work for which epoch, so that a promotion can end all older ones.

Every writing session and every program that it starts is registered in a file before it does
anything. A job that nobody answers for any more is still found here, and ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

from .layout import JOBS, STORE
from .locks import file_lock, store_lock
from .processes import process_of, processes
from .refusals import Refusal

LANE_SECONDS = 10.0
KILL_SECONDS = 10.0


class Job(NamedTuple):
    """A registered process group; ``owner`` is the gate process that answers for it."""

    group: int
    epoch: int
    started: str
    owner: int


def register_job(epoch: int, owner: int) -> None:
    """Enter the calling process, the leader of its group, among the jobs of ``epoch``."""
    myself = process_of(str(os.getpid()))
    assert myself is not None
    with open(f"{JOBS}/{myself.pid}", "w", encoding="ascii") as file:
        file.write(f"{epoch} {myself.started} {owner}")


def unregister_job(group: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{JOBS}/{group}")


def registered_jobs() -> list[Job]:
    """Every registered job, dead or alive."""
    jobs = []
    for name in os.listdir(JOBS):
        with contextlib.suppress(FileNotFoundError, ValueError):
            with open(f"{JOBS}/{name}", encoding="ascii") as file:
                epoch, started, owner = file.read().split()
            jobs.append(Job(int(name), int(epoch), started, int(owner)))
    return jobs


def members(group: int, started: str) -> list[int]:
    """The living processes of a group, none when its id belongs to somebody else by now."""
    table = [process for process in processes() if process.group == group]
    if any(process.pid == group and process.started != started for process in table):
        return []
    return [process.pid for process in table]


def end_group(group: int, started: str) -> None:
    """Kill a process group and wait until nothing of it lives. Raises Refusal ``jobs-alive``."""
    deadline = time.monotonic() + KILL_SECONDS
    while members(group, started):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Refusal("jobs-alive", f"process group {group} does not end", "reboot this host")
        time.sleep(0.005)
    unregister_job(group)


def end_jobs_below(epoch: int) -> None:
    """End every job of a lower epoch and wait until none is left; call it locked."""
    mine = os.getpgrp()
    for job in registered_jobs():
        if job.epoch < epoch and job.group != mine:
            end_group(job.group, job.started)


def end_other_jobs() -> None:
    """End every job but the caller's own: what an interrupted transfer left, may still write."""
    mine = os.getpgrp()
    with store_lock():
        for job in registered_jobs():
            if job.group != mine:
                end_group(job.group, job.started)


def end_orphans() -> None:
    """End the jobs of gates that were killed: nobody answers for what they still do."""
    jobs = {job.group: job for job in registered_jobs()}
    for job in jobs.values():
        owner = jobs.get(job.owner)
        if owner is None or not members(owner.group, owner.started):
            end_group(job.group, job.started)


@contextlib.contextmanager
def lane(name: str) -> Iterator[None]:
    """One job of a kind at a time. Raises Refusal ``busy``."""
    with file_lock(f"{STORE}/{name}.lock", LANE_SECONDS, f"another {name} is running"):
        with store_lock():
            end_orphans()
        yield
