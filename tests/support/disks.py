"""A disk of the test's own that can be full. Root only."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
    """Nothing more fits on this disk but so many bytes; afterwards there is room again."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - but)
    try:
        yield
    finally:
        ballast.unlink()
