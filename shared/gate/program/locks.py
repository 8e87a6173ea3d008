"""Locks between processes, above all the one lock of the store: sessions run side by side."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from .layout import LOCK
from .refusals import Refusal

LOCK_SECONDS = 20.0


class StoreLock:
    """The one lock of the store, between processes; the holder may take it again."""

    def __init__(self) -> None:
        self._depth = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Raises Refusal ``busy``."""
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        with file_lock(LOCK, LOCK_SECONDS, "another session holds the store"):
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0


@contextlib.contextmanager
def file_lock(path: str, seconds: float, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on a file. Raises Refusal ``busy`` when that takes too long."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while not try_lock(fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise Refusal("busy", f"{busy}, for more than {seconds:g} s", "try again")
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


store_lock = StoreLock()
