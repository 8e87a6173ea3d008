"""Who can still write a tree: a frozen one must have nobody, also not through a memory map."""

from __future__ import annotations

import contextlib
import os

from .processes import processes


def writers_under(tree: str) -> list[int]:
    """Processes that hold a file below ``tree`` open for writing, or mapped so."""
    top = os.path.realpath(tree)
    return [
        process.pid
        for process in processes()
        if process.pid != os.getpid() and (writes(process.pid, top) or maps(process.pid, top))
    ]


def is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def writes(pid: int, top: str) -> bool:
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for fd in descriptors:
        with contextlib.suppress(OSError):
            if not is_below(os.readlink(f"/proc/{pid}/fd/{fd}"), top):
                continue
            with open(f"/proc/{pid}/fdinfo/{fd}") as file:
                flags = next(line for line in file if line.startswith("flags:"))
            if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                return True
    return False


def maps(pid: int, top: str) -> bool:
    try:
        with open(f"/proc/{pid}/maps", errors="replace") as file:
            lines = [line.split(None, 5) for line in file]
    except OSError:
        return False
    return any(len(f) == 6 and f[1][1:4:2] == "ws" and is_below(f[5].strip(), top) for f in lines)
