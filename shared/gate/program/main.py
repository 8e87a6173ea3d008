"""How the gate starts: as a session that sshd forces on a client, or to install itself."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys

from .answers import answer, read_request
from .host import Session, read_host
from .leases import begin_lease
from .refusals import REFUSAL_MARK, Refusal, as_refusal
from .sessions import follow_up, serve


def main() -> int:
    """Serve one session, or ``install``; returns the exit status."""
    os.umask(0o022)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if sys.argv[1:] == ["install"]:
        from .installing import install  # noqa: PLC0415 - sessions start faster without it

        answer(lambda: install(read_request()))
        return 0
    parser = argparse.ArgumentParser(description="the gate of dumont")
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--role", required=True)
    parser.add_argument("--epoch", required=True, type=int)
    line = parser.parse_args()
    try:
        command = shlex.split(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    except ValueError:
        command = []

    def session() -> Session:
        begin_lease()
        host = read_host()
        if host.workspace != line.workspace:
            raise Refusal("not-installed", f"this host is of workspace {host.workspace}")
        return Session(line.role, line.epoch, host)

    if command[:1] != ["rsync"]:
        answer(lambda: serve(session(), command))
        if line.role == "write" and command[1:] in (["pull"], ["seal"]):
            follow_up(line.epoch)
        return 0
    from .serving import serve_rsync  # noqa: PLC0415 - sessions start faster without it

    try:
        return serve_rsync(session(), command)
    except (Refusal, OSError) as error:
        refusal = as_refusal(error)
        sys.stderr.write(f"{REFUSAL_MARK}{refusal.code} {refusal.reason}\n")
        return 3
