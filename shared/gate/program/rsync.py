"""How the standby runs rsync and ssh, and what their output and their failures mean."""

from __future__ import annotations

import re
import time

from .answers import one_line, say
from .programs import Finished
from .refusals import REFUSAL_MARK, Refusal

RSYNC_COMMON = ("-rlptH", "--no-devices", "--no-specials", "--numeric-ids", "--modify-window=-1")
"""Modification times are compared to the nanosecond: by the second, a rewrite within one second
and of the same size would never be seen."""

PROGRESS_SECONDS = 0.5

_UNREACHABLE = (
    b"Connection refused",
    b"Connection timed out",
    b"Operation timed out",
    b"No route to host",
    b"Network is unreachable",
    b"Connection reset",
    b"Connection closed",
    b"closed by remote host",
    b"not responding",
    b"Could not resolve",
    b"Broken pipe",
    b"kex_exchange_identification",
    b"unexpectedly closed",
)

_STATISTIC = re.compile(rb"^(Number of regular files transferred|Total bytes sent): (\d+)", re.M)
_PROGRESS = re.compile(rb"(\d+)\s+(\d+)%")


def sort_failure(who: str, finished: Finished) -> Refusal:
    """Which code a failed ssh or rsync to ``who`` (source or candidate) has, and its last words."""
    words = one_line(finished.err)
    mark = REFUSAL_MARK.encode()
    if mark in finished.err:
        told = finished.err.split(mark, 1)[1].splitlines()[0]
        missing = told.startswith(b"source-missing ")
        return Refusal("source-missing" if missing else f"{who}-refused", one_line(told))
    if b"Host key verification failed" in finished.err or b"host certificate" in finished.err:
        return Refusal(f"{who}-identity", f"{who} is not a host of this workspace: {words}")
    if b"Permission denied (" in finished.err:
        return Refusal(f"{who}-refused-us", f"{who} does not accept our certificate: {words}")
    if b"No space left" in finished.err or b"Disk quota exceeded" in finished.err:
        return Refusal("disk-full", words, "give the host a bigger disk")
    if finished.code == 255 or any(text in finished.err for text in _UNREACHABLE):
        return Refusal(f"{who}-unreachable", f"{who} does not answer: {words}")
    return Refusal("rsync-failed", f"exit status {finished.code}: {words or 'it said nothing'}")


def statistic(output: bytes, name: bytes) -> int:
    return next((int(m.group(2)) for m in _STATISTIC.finditer(output) if m.group(1) == name), 0)


class Progress:
    """Turns rsync's running total into lines for the client, not more often than it can use."""

    def __init__(self, bytes_total: int | None) -> None:
        self._total = bytes_total
        self._next = 0.0

    def __call__(self, output: bytes) -> None:
        seen = _PROGRESS.findall(output)
        if not seen or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PROGRESS_SECONDS
        done, percent = (int(number) for number in seen[-1])
        total = self._total if self._total is not None else done * 100 // max(percent, 1)
        say("progress", {"bytes_done": min(done, total), "bytes_total": total})
