"""A disk of the test's own that can be full. Root only."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

REFILL_SECONDS = 0.05

needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A disk of ``size`` (``8m``) mounted on the new directory ``at``."""
    at.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", str(at)], check=True
    )
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@contextmanager
def full(disk: Path, *, but: int = 0) -> Iterator[None]:
    """Nothing more fits on this disk but so many bytes; afterwards there is room again.

    What others give free meanwhile is taken at once.
    """
    ballast = disk / "ballast"
    _fill(ballast, shutil.disk_usage(disk).free - but)
    over = threading.Event()

    def refill() -> None:
        while not over.wait(REFILL_SECONDS):
            _fill(ballast, shutil.disk_usage(disk).free)

    filling = threading.Thread(target=refill if not but else over.wait)
    filling.start()
    try:
        yield
    finally:
        over.set()
        filling.join()
        ballast.unlink()


def _fill(ballast: Path, count: int) -> None:
    with ballast.open("ab") as file, suppress(OSError):
        if count > 0:
            os.posix_fallocate(file.fileno(), file.tell(), count)
