"""Running another program as a job: never beyond its epoch, its time or its client."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

from .answers import client_is_gone
from .epochs import demand_epoch
from .jobs import end_group, register_job
from .locks import store_lock
from .processes import process_of
from .refusals import ClientGoneError, Refusal

GRACE_SECONDS = 2.0
STDERR_BYTES_MAX = 16 << 10


class Finished(NamedTuple):
    """How a program ended."""

    code: int
    out: bytes
    err: bytes


def run_job(
    argv: list[str],
    *,
    epoch: int,
    deadline: float,
    request: bytes = b"",
    on_output: Callable[[bytes], None] | None = None,
) -> Finished:
    """Run a program as a registered job of ``epoch``, in a process group of its own.

    ``deadline`` is of the monotonic clock. When this returns or raises, its group is empty.
    Raises Refusal ``stale-epoch`` and ``timeout``, ClientGoneError.
    """

    gate = os.getpid()

    def enlist() -> None:
        os.setsid()
        register_job(epoch, gate)

    with store_lock():
        demand_epoch(epoch)
        job = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/root"},
            cwd="/",
            preexec_fn=enlist,  # noqa: PLW1509 - one thread; it must be known before it runs
        )
        leader = process_of(str(job.pid))
    started = leader.started if leader else ""
    try:
        return follow(job, deadline, request, on_output)
    finally:
        end_group(job.pid, started)
        job.wait()


def follow(
    job: subprocess.Popen[bytes],
    deadline: float,
    request: bytes,
    on_output: Callable[[bytes], None] | None,
) -> Finished:
    """Collect a job's output until it ends, the time is up or nobody waits any more."""
    assert job.stdin and job.stdout and job.stderr
    with contextlib.suppress(BrokenPipeError):
        job.stdin.write(request)
        job.stdin.close()
    kept = {job.stdout.fileno(): bytearray(), job.stderr.fileno(): bytearray()}
    out, err = kept.values()
    try:
        while kept or job.poll() is None:
            readable = select.select(list(kept), [], [], 0.1 if kept else 0.01)[0]
            for fd in readable:
                chunk = os.read(fd, 64 << 10)
                if not chunk:
                    del kept[fd]
                    continue
                kept[fd] += chunk
                if kept[fd] is err:
                    del err[:-STDERR_BYTES_MAX]
                elif on_output:
                    on_output(chunk)
            if client_is_gone():
                raise ClientGoneError
            if time.monotonic() > deadline:
                raise Refusal("timeout", "the time for this was up before it was done")
    except (Refusal, ClientGoneError):
        ask_to_end(job)
        raise
    finally:
        job.stdout.close()
        job.stderr.close()
    return Finished(job.returncode, bytes(out), bytes(err))


def ask_to_end(job: subprocess.Popen[bytes]) -> None:
    """Give rsync the moment it needs to keep what it has of a big file."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(job.pid, signal.SIGTERM)
        job.wait(GRACE_SECONDS)
