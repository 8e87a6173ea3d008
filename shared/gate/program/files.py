"""Files that must survive a crash whole, and directories that must vanish at once."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

from .layout import TRASH


def read_json(path: str) -> Any:
    """What a JSON file holds; None when it is not there or was torn by a crash."""
    try:
        with open(path, encoding="ascii") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def durable_write(path: str, content: str | bytes, mode: int = 0o600) -> None:
    """Replace a file so that a crash leaves the old or the new one, and the new one once done."""
    fresh = f"{path}.new"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content if isinstance(content, bytes) else content.encode())
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
    fsync_directory(os.path.dirname(path))


def durable_json(path: str, value: Any) -> None:
    durable_write(path, json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n")


def fsync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_to_disk(path: str) -> None:
    """Write out everything of the filesystem that holds ``path``."""
    import ctypes  # noqa: PLC0415 - slow to import, and only sealing needs it

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if syncfs is None:
            os.sync()
        elif syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot flush {path}: {os.strerror(number)}")
    finally:
        os.close(fd)


def discard(path: str) -> None:
    """Take a directory away at once; its files are deleted when there is time."""
    if os.path.lexists(path):
        os.makedirs(TRASH, 0o700, exist_ok=True)
        os.rename(path, f"{TRASH}/{os.path.basename(path)}.{time.monotonic_ns()}.{os.getpid()}")


def empty_trash() -> None:
    shutil.rmtree(TRASH, ignore_errors=True)
