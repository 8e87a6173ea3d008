"""Running another program as a job: never beyond its epoch, its time or its client."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .answers import client_is_gone
from .epochs import demand_epoch
from .jobs import end_group, register_job
from .leases import lease, over
from .locks import store_lock
from .processes import process_of
from .refusals import ClientGoneError, Refusal

GRACE_SECONDS = 2.0
LEASE_LOOK_SECONDS = 1.0
STDERR_BYTES_MAX = 16 << 10
OUTPUT_BYTES_MAX = 64 << 10
"""What is kept of an output that somebody follows: its end has the totals."""


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
    Raises Refusal ``stale-epoch``, ``timeout`` and ``certificate-over``, ClientGoneError.
    """
    with job_of(argv, epoch, "/", subprocess.PIPE) as job:
        return follow(job, deadline, request, on_output)


def serve_job(argv: list[str], *, epoch: int, directory: str) -> int:
    """Let the client talk with a program in ``directory``, a job of ``epoch``; its exit status.

    Raises Refusal ``stale-epoch`` and ``certificate-over``.
    """
    with job_of(argv, epoch, directory, None) as job:
        while True:
            try:
                return job.wait(max(0.0, min(lease.left(), LEASE_LOOK_SECONDS)))
            except subprocess.TimeoutExpired:
                if lease.left() <= 0:
                    ask_to_end(job)
                    raise over() from None


@contextlib.contextmanager
def job_of(
    argv: list[str], epoch: int, directory: str, stream: int | None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program registered under ``epoch``; afterwards nothing of its group lives."""
    gate = os.getpid()
    last_second = math.ceil(max(0.0, lease.left()) + GRACE_SECONDS + 1)

    def enlist() -> None:
        os.setsid()
        register_job(epoch, gate)
        signal.alarm(last_second)  # outlives the exec: the kernel ends it if we do not live to

    with store_lock():
        demand_epoch(epoch)
        lease.demand()
        job = subprocess.Popen(
            argv,
            stdin=stream,
            stdout=stream,
            stderr=stream,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/root"},
            cwd=directory,
            preexec_fn=enlist,  # noqa: PLW1509 - one thread; it must be known before it runs
        )
        leader = process_of(str(job.pid))
    try:
        yield job
    finally:
        end_group(job.pid, leader.started if leader else "")
        job.wait()


def follow(
    job: subprocess.Popen[bytes],
    deadline: float,
    request: bytes,
    on_output: Callable[[bytes], None] | None,
) -> Finished:
    """Collect a job's output until it ends, the time is up or nobody waits any more.

    All of it is kept, unless ``on_output`` takes it as it comes: then the end of it is.
    """
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
                    del out[:-OUTPUT_BYTES_MAX]
            if client_is_gone():
                raise ClientGoneError
            if time.monotonic() > deadline:
                raise Refusal("timeout", "the time for this was up before it was done")
            if lease.left() <= 0:
                raise over()
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
