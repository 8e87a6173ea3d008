"""The people's account on the standby: letting it in, shutting it out, ending what it runs."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import time

from .answers import client_is_gone
from .files import durable_write, fsync_directory
from .layout import ETC, PEOPLE, PEOPLE_KEYS
from .processes import processes
from .refusals import ClientGoneError, Refusal


def let_people_at(tree: str) -> None:
    """Give the top of the promoted tree to the people's account."""
    account = pwd.getpwnam(PEOPLE)
    os.chown(tree, account.pw_uid, account.pw_gid)
    os.chmod(tree, 0o755)  # noqa: S103 - the directories above let nobody else in


def open_account() -> None:
    """Let people log in."""
    with open(PEOPLE_KEYS, encoding="utf-8") as file:
        durable_write(f"{ETC}/keys/{PEOPLE}", file.read(), 0o644)


def close_account() -> None:
    """No new login of people; see ``end_people`` for those who are here."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{ETC}/keys/{PEOPLE}")
        fsync_directory(f"{ETC}/keys")


def people_processes(uid: int) -> list[int]:
    found = []
    for process in processes():
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status") as file:
            uids = next(line for line in file if line.startswith("Uid:")).split()[1:]
            if str(uid) in uids:
                found.append(process.pid)
    return found


def end_people(deadline: float) -> int:
    """End every process of the people's account, asked first, and wait until none is left.

    ``deadline`` is of the monotonic clock. Raises Refusal ``still-writing``, ClientGoneError.
    """
    uid = pwd.getpwnam(PEOPLE).pw_uid
    if uid == 0:
        raise Refusal("unsuitable", "people are root on this host: nothing can be taken from them")
    begun = time.monotonic()
    ended: set[int] = set()
    while alive := people_processes(uid):
        waited = time.monotonic() - begun
        if time.monotonic() > deadline:
            raise Refusal("still-writing", f"{len(alive)} processes of people do not end")
        if client_is_gone():
            raise ClientGoneError
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if pid in ended and waited > 0.3 else signal.SIGTERM)
            ended.add(pid)
        time.sleep(0.01)
    return len(ended)
