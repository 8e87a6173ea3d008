"""The far end of our own rsync: in one direction and in one directory only."""

from __future__ import annotations

import os
import re

from .epochs import demand_epoch, demand_not_over, read_epoch
from .files import durable_write
from .host import Session
from .jobs import end_jobs_below
from .layout import EPOCH
from .locks import store_lock
from .programs import serve_job
from .refusals import Refusal
from .restoring import begun_attempt

_SHORT = re.compile(r"-[lHtprvnc]+(e\.[A-Za-z]*)?")
_RATE = re.compile(r"--bwlimit=\d{1,9}")
_LONG = ("--numeric-ids", "--stats", "--no-inc-recursive", "--delete", "--delete-during", "-@-1")


def serve_rsync(session: Session, command: list[str]) -> int:
    """Be the far end of our own rsync, in one direction and in one directory only.

    Only options that our side uses pass; among others that leaves out those which name files,
    follow links, or take more arguments from the network.
    """
    sending = "--sender" in command
    if command[:2] != ["rsync", "--server"] or command[-2:-1] != ["."]:
        raise Refusal("bad-request", "only rsync as our side runs it is served here")
    options = [word for word in command[2:-2] if word != "--sender"]
    for option in options:
        known = _SHORT.fullmatch(option) or _RATE.fullmatch(option) or option in _LONG
        if not known:
            raise Refusal("bad-request", f"rsync option {option[:60]!r} is not for this key")
    if sending != (session.role == "read"):
        raise Refusal("bad-request", f"a {session.role} key does not work in this direction")
    with store_lock():
        directory = readable(session) if sending else writable(session, command[-1])
    direction = ["--sender"] if sending else [f"--partial-dir={directory}/../partial"]
    argv = ["rsync", "--server", *direction, *options, ".", f"{directory}/"]
    return serve_job(argv, epoch=session.epoch, directory=directory)


def readable(session: Session) -> str:
    """The tree to read. From the first read of an epoch on, nothing older writes here."""
    path = session.host.path
    demand_not_over(session.epoch)
    if session.epoch > read_epoch():
        durable_write(EPOCH, f"{session.epoch}\n", 0o644)
        end_jobs_below(session.epoch)
    if not os.path.isdir(path):
        raise Refusal("source-missing", f"{path} is not there")
    return path


def writable(session: Session, asked: str) -> str:
    """The staging tree of the attempt that the client named as ``/aN``."""
    demand_epoch(session.epoch)
    named = re.fullmatch(r"/?a(\d{1,9})/?", asked)
    if not named:
        raise Refusal("bad-request", f"{asked[:60]!r} names no attempt")
    directory = begun_attempt(session, {"attempt": named.group(1)})
    if not os.path.isdir(f"{directory}/tree"):
        raise Refusal("target-not-ours", "this attempt is in place: nothing is written there")
    return f"{directory}/tree"
