"""What a new copy has changed against the last generation: whether to seal it, and to trust it.

The hash of a file is taken over from the last generation only when it is the very same file there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat

from .answers import Answer
from .generations import Generation
from .layout import LIVE
from .manifests import FilesByPath, Known, count, hash_open, open_below, walk

SHRINK_RATIO = 0.5
"""A source with less than this share of the last generation is held, not sealed."""


def known_from(basis: Generation | None, before: FilesByPath) -> Known:
    """The hash of a file that is the very same one, by hard link, as in the last generation."""

    def known(relative: str, info: os.stat_result) -> str | None:
        entry = before.get(relative)
        if basis is None or entry is None or entry["type"] != "file":
            return None
        try:
            old = os.lstat(os.path.join(basis.tree, relative))
        except FileNotFoundError:
            return None
        same = (old.st_ino, old.st_dev, old.st_size, old.st_mtime_ns) == (
            info.st_ino,
            info.st_dev,
            info.st_size,
            info.st_mtime_ns,
        )
        return str(entry["sha256"]) if same else None

    return known


def crossings(tree: str, bases: list[str]) -> list[str]:
    """The directories of a copy where a base of it has a symbolic link.

    rsync goes through that link, and finds files outside the base that it takes for the old ones:
    with the right size and time, a source could have a file of this host linked into its copy.
    """
    return [
        relative
        for relative, info in walk(tree)
        if stat.S_ISDIR(info.st_mode) and any(os.path.islink(f"{b}/{relative}") for b in bases)
    ]


def differs(basis: Generation, before: FilesByPath, staging: str, files: FilesByPath) -> bool:
    """Whether a copy is not what the last generation is: in content, modes, names or times."""
    if files != before:
        return True
    return any(
        os.lstat(f"{staging}/tree/{path}").st_ino != os.lstat(f"{basis.tree}/{path}").st_ino
        for path, entry in files.items()
        if entry["type"] == "file"
    )


def settle_racy(staging: str, basis: Generation, before: FilesByPath) -> None:
    """Copy what changed without a new time since the last generation was taken.

    A write through a memory map touches the time of a file only at the first write after its
    page was flushed. So a file with a time not older than the last copy may differ from it under
    the same time and size; only its content tells.
    """
    sealed = basis.seal()
    if sealed.get("source") != "live":
        return
    oldest = int(sealed["taken_ns"]) - 10**9
    for path, entry in before.items():
        if entry["type"] != "file":
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            copied = os.lstat(f"{staging}/tree/{path}")
            if copied.st_ino == os.lstat(f"{basis.tree}/{path}").st_ino:
                recopy(path, f"{staging}/tree/{path}", entry["sha256"], oldest)


def recopy(path: str, target: str, sha256: str, oldest: int) -> None:
    """Replace ``target``, never writing into it, if a live file since ``oldest`` has other content.

    People may be moving their tree about while this reads it as root.
    """
    fd = open_below(f"{LIVE}/tree", path)
    if fd is None:
        return
    with open(fd, "rb", buffering=0) as source:
        now = os.fstat(fd)
        if now.st_mtime_ns < oldest or hash_open(fd) == sha256:
            return
        source.seek(0)
        fresh = f"{target}.dumont-{os.getpid()}"
        with open(fresh, "wb") as file:
            shutil.copyfileobj(source, file)
        os.chmod(fresh, stat.S_IMODE(now.st_mode))
        os.utime(fresh, ns=(now.st_atime_ns, now.st_mtime_ns))
    os.rename(fresh, target)


def shrank(before: FilesByPath, now: FilesByPath) -> Answer | None:
    """Why a copy must not be sealed without a person's word: its source lost most of its data."""
    files_before, bytes_before = count(before)
    files_now, bytes_now = count(now)
    if files_now >= SHRINK_RATIO * files_before and bytes_now >= SHRINK_RATIO * bytes_before:
        return None
    return {
        "code": "source-shrank",
        "reason": f"the source shrank from {files_before} files ({bytes_before} bytes) "
        f"to {files_now} files ({bytes_now} bytes)",
        "files_before": files_before,
        "files_now": files_now,
        "bytes_before": bytes_before,
        "bytes_now": bytes_now,
    }
