"""A machine's files as seen from outside: resolve, walk and hash inside its root alone.

A machine may hold any symlink. Each is followed as the machine itself would follow it: an absolute
target begins at the machine's root, and ``..`` never leaves it.
"""

import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import Any

_MOST_LINKS = 40
_BLOCK = 1 << 20


class PathError(Exception):
    """The path leads nowhere inside this machine."""


def resolve(root: Path, path: str, *, follow_last: bool = True) -> Path:
    """Where ``path`` lies under ``root``; what is missing at its end is left as it is written."""
    waiting = _parts(path)
    reached: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            del reached[-1:]
            continue
        here = root.joinpath(*reached, part)
        if here.is_symlink() and (waiting or follow_last):
            links += 1
            if links > _MOST_LINKS:
                raise PathError(f"{path}: too many levels of symbolic links")
            target = os.readlink(here)  # noqa: PTH115  a Path would tidy it
            if target.startswith("/"):
                reached.clear()
            waiting.extend(_parts(target))
            continue
        reached.append(part)
    return root.joinpath(*reached)


def _parts(path: str) -> list[str]:
    """The parts of a path, last first, so that the next one is popped from the end."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def walk(root: Path, path: str) -> dict[str, dict[str, Any]]:
    """Every file, link and directory under ``path``, by its path relative to it.

    Values are ``{"type": "file"|"dir"|"link"|"other", "mode": permission bits}``, for a file also
    ``size`` in bytes and ``sha256``, for a link ``target``. Raises PathError when there is no such
    directory.
    """
    top = resolve(root, path)
    if not top.is_dir():
        raise PathError(f"{path}: no such directory on this machine")
    found: dict[str, dict[str, Any]] = {}
    pending = [""]
    while pending:
        parent = pending.pop()
        with os.scandir(top / parent) as entries:
            for entry in entries:
                name = f"{parent}/{entry.name}" if parent else entry.name
                described = _describe(entry)
                if described is None:
                    continue
                found[name] = described
                if described["type"] == "dir":
                    pending.append(name)
    return dict(sorted(found.items()))


def _describe(entry: "os.DirEntry[str]") -> dict[str, Any] | None:
    """None when the entry went away while we looked: the machine is alive."""
    try:
        status = entry.stat(follow_symlinks=False)
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            return {"type": "dir", "mode": mode}
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(entry.path)  # noqa: PTH115
            return {"type": "link", "mode": mode, "target": target}
        if stat.S_ISREG(status.st_mode):
            size, digest = _hash(Path(entry.path))
            return {"type": "file", "mode": mode, "size": size, "sha256": digest}
    except FileNotFoundError:
        return None
    return {"type": "other", "mode": mode}


def _hash(path: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(_BLOCK):
            size += len(block)
            digest.update(block)
    return size, digest.hexdigest()


def read(root: Path, path: str) -> bytes:
    """One file's bytes. Raises PathError when there is no such file."""
    place = resolve(root, path)
    if not place.is_file():
        raise PathError(f"{path}: no such file on this machine")
    return place.read_bytes()


def write(root: Path, path: str, content: bytes) -> None:
    """Make or replace one file, with the directories above it."""
    place = resolve(root, path)
    if place.is_dir():
        raise PathError(f"{path}: is a directory")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise PathError(f"{path}: a file is in the way of its directory") from error
    place.write_bytes(content)


def remove(root: Path, path: str) -> None:
    """Remove one file or link, or a directory with all that is in it, never the root."""
    place = resolve(root, path, follow_last=False)
    if place == root:
        raise PathError(f"{path}: the root of a machine cannot be removed")
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.is_dir():
        shutil.rmtree(place)
    else:
        raise PathError(f"{path}: no such file on this machine")


def truncate(root: Path, path: str, size: int) -> None:
    """Cut one file to ``size`` bytes. Raises PathError when there is no such file."""
    place = resolve(root, path)
    if not place.is_file():
        raise PathError(f"{path}: no such file on this machine")
    os.truncate(place, size)
