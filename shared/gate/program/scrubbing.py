"""Reading the newest generation again, file by file, when the client has its answer.

Each copy reads a little further, with the least priority, in a job of its epoch that a promotion
ends like any other. A damaged file is made good from the private copy of the generation where that
still has the true content; otherwise all generations that share the file are marked, and the next
copy takes it from its source again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time

from .files import discard, durable_json, fsync_directory, read_json
from .generations import Generation, generations, in_use
from .layout import GENERATIONS, LIVE, READY, STAGING, STORE
from .leases import lease
from .locks import LOCK_SECONDS, file_lock, try_lock
from .manifests import hash_file
from .ready import holds_ready
from .refusals import Refusal
from .soundness import mark_damaged, newest_sound

SCRUB_SECONDS = 3.0
PLACE = f"{STORE}/scrub.json"


def scrub() -> None:
    """Read on for a while from where the last one ended; nothing if another one is at it."""
    fd = os.open(f"{STORE}/scrub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if try_lock(fd, fcntl.LOCK_EX):
            os.nice(19)
            with contextlib.suppress(Refusal):  # busy: the next one reads on from here
                read_on()
    finally:
        os.close(fd)


def read_on() -> None:
    generation, files = newest_sound()
    if generation is None or os.path.exists(f"{LIVE}/frozen.json"):
        return  # frozen: people wait, and the disk is needed for the way back
    place = read_json(PLACE) or {}
    after, passes = str(place.get("after", "")), int(place.get("passes", 0))
    deadline = time.monotonic() + SCRUB_SECONDS
    paths = sorted(path for path, entry in files.items() if entry["type"] == "file")
    with in_use(generation):
        for path in paths:
            if path <= after:
                continue
            if time.monotonic() > deadline or lease.left() <= 0:
                break
            if not check(generation, path, files[path]["sha256"]):
                break
            after = path
        else:
            after, passes = "", passes + 1
    durable_json(PLACE, {"after": after, "passes": passes})


def check(generation: Generation, path: str, sha256: str) -> bool:
    """Whether a file and its private copy are, or could be made, what was sealed."""
    copy = f"{READY}/tree/{path}"
    own = f"{generation.tree}/{path}"
    if hash_on_disk(own) == sha256 and (
        not holds_ready(generation) or hash_on_disk(copy) == sha256
    ):
        return True
    # No copy may be under way: it would link what is damaged, and take it for the truth.
    with file_lock(f"{STORE}/copy.lock", LOCK_SECONDS, "a copy is running"):
        here = hash_on_disk(own) == sha256
        there = holds_ready(generation) and hash_on_disk(copy) == sha256
        if here:
            forget_ready(copy)
            return True
        for name in os.listdir(STAGING):
            discard(f"{STAGING}/{name}")
        if there:
            mend(generation, path, copy)
            return True
        for other in sharing(generation, path):
            mark_damaged(other, [path])
        return False


def hash_on_disk(path: str) -> str | None:
    """The hash of what the disk has; None when it cannot be read at all."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # memory may know better
        finally:
            os.close(fd)
        return hash_file(path)
    except OSError:
        return None


def forget_ready(copy: str) -> None:
    """Have the private copy of a file made again before it counts as ready."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{READY}/state.json")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(copy)


def sharing(generation: Generation, path: str) -> list[Generation]:
    """The generations whose file at ``path`` is the very same one on disk."""
    inode = os.lstat(f"{generation.tree}/{path}").st_ino
    found = []
    for other in generations():
        with contextlib.suppress(OSError):
            if os.lstat(f"{other.tree}/{path}").st_ino == inode:
                found.append(other)
    return found


def mend(generation: Generation, path: str, copy: str) -> None:
    """Put a copy with the true content in the place of a damaged file, wherever that is shared."""
    damaged = os.lstat(f"{generation.tree}/{path}")
    fresh = f"{GENERATIONS}/.mended-{os.getpid()}"
    shutil.copyfile(copy, fresh, follow_symlinks=False)
    os.chmod(fresh, damaged.st_mode & 0o7777)
    os.utime(fresh, ns=(damaged.st_atime_ns, damaged.st_mtime_ns))
    for other in sharing(generation, path):
        target = f"{other.tree}/{path}"
        os.link(fresh, f"{fresh}.link")
        os.rename(f"{fresh}.link", target)
        fsync_directory(os.path.dirname(target))
    os.unlink(fresh)
