"""The process table, read from /proc: what lives here, and who started it."""

from __future__ import annotations

import os
from typing import NamedTuple


class Process(NamedTuple):
    """A line of the process table; ``started`` tells a process from a later one with its id."""

    pid: int
    group: int
    started: str
    dead: bool


def process_of(pid: str) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Process(int(pid), int(fields[2]), fields[19], fields[0] in "ZX")


def processes() -> list[Process]:
    """All living processes. Zombies hold nothing and write nothing: they do not count."""
    every = (process_of(name) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in every if process and not process.dead]


def command_of(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(")") + 2 :].split()[1])
