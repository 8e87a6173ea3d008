"""Machines and the roles they play, in the words of the whole product."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

WorkspaceName = NewType("WorkspaceName", str)
"""Lower-case letters, digits and inner hyphens, at most 40 characters: it becomes part of
subjects, certificate principals, machine labels and host names."""

MachineId = NewType("MachineId", str)
"""Our own name for a machine: the label that it was rented under."""

_WORKSPACE_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


class Role(StrEnum):
    """What a host is to its workspace."""

    GPU = "gpu"
    STANDBY = "standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that we can reach by SSH.

    ``provider`` is ``vast``, ``gce`` or ``ssh`` (a host that nobody bills us for);
    ``provider_id`` is its name in the provider's API. ``price_per_hour`` is in US dollars.
    """

    id: MachineId
    provider: str
    provider_id: str
    address: str
    port: int
    user: str = "root"
    price_per_hour: float = 0.0
    description: str = ""


def workspace_name(text: str) -> WorkspaceName:
    """Check a workspace name where it came in. Raises ValueError with what is allowed."""
    if not _WORKSPACE_NAME.fullmatch(text):
        raise ValueError(
            f"workspace name {text!r} is not usable: take 1 to 40 lower-case letters, digits "
            "and hyphens, starting with a letter and not ending in a hyphen"
        )
    return WorkspaceName(text)
