"""What is in a tree, by path and hash: how copies are compared across hosts."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

FilesByPath = dict[str, dict[str, Any]]
Known = Callable[[str, os.stat_result], "str | None"]
BLOCK = 1 << 20


def hash_file(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return hash_open(fd)
    finally:
        os.close(fd)


def hash_open(fd: int) -> str:
    """The hash of what is left to read of an open file."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    while size := os.readv(fd, [buffer]):
        digest.update(buffer[:size])
    return digest.hexdigest()


def open_below(top: str, relative: str) -> int | None:
    """Open a regular file under a directory that others may be changing, through no link at all.

    None when it is not there, or not any more what it was.
    """
    *directories, name = relative.split("/")
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for directory in directories:
            inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inside
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return None
        raise
    finally:
        os.close(at)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def walk(tree: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below ``tree`` by its relative path, links not followed, the top left out."""
    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(os.path.join(tree, inside)) as entries:
            for entry in entries:
                relative = f"{inside}/{entry.name}" if inside else entry.name
                yield relative, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(relative)


def take_manifest(tree: str, known: Known) -> FilesByPath:
    """What is in a tree. ``known`` gives the hash of a file that need not be read again."""
    files: FilesByPath = {}
    by_inode: dict[int, str] = {}
    for relative, info in walk(tree):
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode):
            files[relative] = {"type": "dir", "mode": mode}
        elif stat.S_ISLNK(info.st_mode):
            target = os.readlink(os.path.join(tree, relative))
            files[relative] = {"type": "link", "target": target}
        elif stat.S_ISREG(info.st_mode):
            sha256 = by_inode.get(info.st_ino) or known(relative, info)
            sha256 = sha256 or hash_file(os.path.join(tree, relative))
            if info.st_nlink > 1:
                by_inode[info.st_ino] = sha256
            files[relative] = {"type": "file", "mode": mode, "size": info.st_size, "sha256": sha256}
    return files


def manifest_sha256(files: FilesByPath) -> str:
    canonical = json.dumps({"files": files}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def count(files: FilesByPath) -> tuple[int, int]:
    """How many files and links, and how many bytes in them."""
    kept = [entry for entry in files.values() if entry["type"] != "dir"]
    return len(kept), sum(entry.get("size", 0) for entry in kept)


def bytes_changed(before: FilesByPath, now: FilesByPath) -> int:
    """The size of the files that are new or differ in content."""
    return sum(
        entry["size"]
        for path, entry in now.items()
        if entry["type"] == "file" and entry["sha256"] != before.get(path, {}).get("sha256")
    )
