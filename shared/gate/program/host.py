"""Who this host is and what a session may say of itself: what every verb is given."""

from __future__ import annotations

from typing import NamedTuple

from .files import read_json
from .layout import HOST
from .refusals import Refusal


class Host(NamedTuple):
    """Who this host is, as recovery wrote it."""

    workspace: str
    role: str
    machine: str
    path: str
    adopted: bool
    user_ca: str


def read_host() -> Host:
    """Raises Refusal ``not-installed``."""
    told = read_json(HOST)
    if not isinstance(told, dict):
        raise Refusal("not-installed", f"{HOST} is missing", "prepare this host again")
    return Host(*(told[field] for field in Host._fields))


class Session(NamedTuple):
    """One request: what the key line says of it, and the host."""

    role: str
    epoch: int
    host: Host
