"""``watch``: which paths of a GPU's workspace change, told while they change.

By inotify, which costs nothing while nothing happens. It is a hint that makes copies sooner, never
the truth: writes through memory maps are not seen, and a queue that ran over is only told of. The
scan of the whole tree goes on beside it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

from .answers import Answer, client_is_gone, say
from .epochs import demand_not_over
from .excludes import Excludes
from .host import Session
from .leases import lease
from .refusals import ClientGoneError, Refusal

GATHER_SECONDS = 0.1
"""What changes within so long is told together: one file is written in many pieces."""
LOOK_SECONDS = 1.0
PATHS_MAX = 1000
"""A batch with more is only said to be large: the whole tree is looked through then."""

_CREATE, _DELETE, _MOVED_FROM, _MOVED_TO = 0x100, 0x200, 0x40, 0x80
_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_UNMOUNT, _OVERFLOW, _IGNORED, _IS_DIRECTORY = 0x2000, 0x4000, 0x8000, 0x40000000
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_ONLY_DIRECTORY, _NO_LINK, _NOT_UNLINKED = 0x01000000, 0x02000000, 0x04000000
_CHANGES = _CREATE | _DELETE | _MOVED_FROM | _MOVED_TO | _MODIFY | _ATTRIB | _CLOSE_WRITE
_WATCHED = _CHANGES | _DELETE_SELF | _MOVE_SELF | _ONLY_DIRECTORY | _NO_LINK | _NOT_UNLINKED
_HEADER = struct.Struct("iIII")
_BUFFER_BYTES = 256 << 10


class Batch(NamedTuple):
    """Relative paths that changed; ``overflow``: there were more than can be told."""

    paths: set[str]
    overflow: bool


def watch(session: Session, payload: Answer) -> Answer:
    """Tell of changes below the workspace until the client goes or its certificate is over."""
    path = session.host.path
    demand_not_over(session.epoch)
    if not os.path.isdir(path):
        raise Refusal("source-missing", f"{path} is not there")
    watcher = Watcher(path, Excludes(payload.get("excludes", ())))
    try:
        watcher.add("")
        say("progress", {"paths": [], "overflow": False, "directories": len(watcher.names)})
        for batch in watcher.batches():
            paths = sorted(batch.paths) if not batch.overflow else []
            say("progress", {"paths": paths, "overflow": batch.overflow})
    finally:
        os.close(watcher.fd)
    return {}


class Watcher:
    """All directories below ``top`` but what is left out of copies anyway.

    ``names`` are their relative paths by inotify's numbers.
    """

    def __init__(self, top: str, excludes: Excludes) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._top = top
        self._excludes = excludes
        self.names: dict[int, str] = {}
        self.fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _failure(ctypes.get_errno(), "inotify")

    def add(self, top: str) -> set[str]:
        """Watch a directory and all below it; what is in there by then.

        First the watch, then the look: what comes in between is seen twice, not never.
        """
        found: set[str] = set()
        pending = [top]
        while pending:
            directory = pending.pop()
            self._add_one(directory)
            try:
                with os.scandir(os.path.join(self._top, directory)) as entries:
                    for entry in entries:
                        path = f"{directory}/{entry.name}" if directory else entry.name
                        is_directory = entry.is_dir(follow_symlinks=False)
                        if self._excludes.leave_out(path, directory=is_directory):
                            continue
                        found.add(path)
                        if is_directory:
                            pending.append(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it was moved on meanwhile, which is told as well
        return found

    def _add_one(self, relative: str) -> None:
        path = os.fsencode(os.path.join(self._top, relative))
        number = self._libc.inotify_add_watch(self.fd, path, _WATCHED)
        if number >= 0:
            self.names[number] = relative
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOENT, errno.ENOTDIR):
            raise _failure(code, relative)

    def batches(self) -> Iterator[Batch]:
        """What changed, a moment after it began to. Raises Refusal and ClientGoneError."""
        while True:
            if not select.select([self.fd], [], [], LOOK_SECONDS)[0]:
                if client_is_gone():
                    raise ClientGoneError
                lease.demand()
                continue
            time.sleep(GATHER_SECONDS)
            yield self._read()

    def _read(self) -> Batch:
        paths: set[str] = set()
        overflow = False
        for number, mask, name in self._events():
            overflow = overflow or bool(mask & _OVERFLOW)
            directory = self.names.get(number)
            if directory is None:
                continue
            if not directory and mask & (_DELETE_SELF | _MOVE_SELF | _UNMOUNT):
                raise Refusal("source-missing", f"{self._top} is not there any more")
            if mask & _IGNORED:
                del self.names[number]
            if not mask & _CHANGES:
                continue
            path = f"{directory}/{name}" if directory and name else directory or name
            is_directory = bool(mask & _IS_DIRECTORY) or not name
            if self._excludes.leave_out(path, directory=is_directory):
                continue
            paths.add(path)
            if mask & _IS_DIRECTORY and mask & (_CREATE | _MOVED_TO):
                paths |= self.add(path)
        return Batch(paths, overflow or len(paths) > PATHS_MAX)

    def _events(self) -> Iterator[tuple[int, int, str]]:
        while True:
            try:
                buffer = os.read(self.fd, _BUFFER_BYTES)
            except BlockingIOError:
                return
            at = 0
            while at < len(buffer):
                number, mask, _, size = _HEADER.unpack_from(buffer, at)
                at += _HEADER.size
                yield number, mask, os.fsdecode(buffer[at : at + size].rstrip(b"\0"))
                at += size


def _failure(code: int, what: str) -> Refusal:
    if code in (errno.ENOSPC, errno.EMFILE):
        return Refusal(
            "watch-limit",
            "this host has no room for so many watches of directories",
            "raise fs.inotify.max_user_watches there; until then the tree is scanned only",
        )
    return Refusal("unsuitable", f"{what} cannot be watched: {os.strerror(code)}")
