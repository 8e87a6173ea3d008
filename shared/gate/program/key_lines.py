"""The lines of sshd's key file that lead to the gate: which roles and epochs this host lets in."""

from __future__ import annotations

import sys

from .files import durable_write
from .host import Host
from .layout import GATE_LINES, PROGRAM

RETIRED_EPOCHS = 2
"""How many epochs that are over still reach the gate, to be told so in its own words.

A certificate of theirs may be valid for minutes more. Without a line sshd refuses it just as it
refuses one that has expired, and whoever was cut off cannot know which of the two it was.
"""


def gate_line(host: Host, role: str, epoch: int) -> str:
    """One line of the root account's keys: one role of one epoch, through this gate."""
    command = f"{sys.executable or '/usr/bin/env python3'} -I -S {PROGRAM}"
    command += f" --workspace {host.workspace} --role {role} --epoch {epoch}"
    principal = f"{host.workspace}-e{epoch}-{role}"
    return f'cert-authority,principals="{principal}",restrict,command="{command}" {host.user_ca}\n'


def write_gate_lines(host: Host, epoch: int) -> None:
    """Open this host to the credentials of an epoch, and of the one that may follow.

    Those of the last epochs come as far as the gate, which compares with the epoch file.
    """
    over = tuple(range(epoch - RETIRED_EPOCHS, epoch))
    if host.role == "standby":
        roles = {"probe": (epoch - 1, epoch, epoch + 1), "write": (*over, epoch)}
        roles["promote"] = (*over, epoch, epoch + 1)
    elif host.adopted:
        roles = {"probe": (epoch, epoch + 1), "read": (*over, epoch)}
    else:
        roles = {"probe": (epoch, epoch + 1), "write": (*over, epoch)}
        roles["read"] = (*over, epoch + 1)
    lines = [gate_line(host, role, e) for role, epochs in roles.items() for e in epochs if e >= 0]
    durable_write(GATE_LINES, "".join(lines))
