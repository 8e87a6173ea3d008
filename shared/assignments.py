"""What health and sync are to do for a workspace: published by recovery, one key each.

The value in the bucket is the whole truth since ``position`` of the log, the event that made it
so; a watcher ignores one that is older by (epoch, position) than what it has.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from pydantic import TypeAdapter

from shared.machines import Host, WorkspaceName
from shared.policy import Policy


class SyncMode(StrEnum):
    """What the data plane of a workspace is to do now."""

    IDLE = "idle"  # nothing: no standby, failing over, or removed
    MIRROR = "mirror"  # pull from the GPU, seal at the sync interval
    SERVE = "serve"  # people write on the standby: seal the promoted tree at the sync interval
    RESTORE = "restore"  # as SERVE, and bring the newest generation to the candidate in rounds
    FINAL = "final"  # frozen: seal once more, send the last delta, verify


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """``seal`` grows by one each time recovery wants a fresh generation now."""

    workspace: WorkspaceName
    epoch: int
    position: int
    mode: SyncMode
    path: str
    policy: Policy
    host_ca: str = ""
    """Public key line of the workspace's host CA."""
    user_ca: str = ""
    standby: Host | None = None
    primary: Host | None = None
    """The GPU that the endpoint points at, None while the standby serves."""
    candidate: Host | None = None
    attempt: int = 0
    round: int = 0
    seal: int = 0
    accept_shrink: bool = False
    removed: bool = False
    watch: tuple[Host, ...] = field(default=())
    """The hosts whose health counts now: primary and standby."""


SYSTEM_KEY = "_system"
"""What recovery says of the installation. No key of a workspace begins with an underscore."""


LOG_HEAD_KEY = "_log_head"
"""Where the log ended when recovery last looked: see ``eventlog.heads``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What recovery was configured with, and the key that it logs in to fresh hosts with."""

    configured: dict[str, bool]
    ssh_public_key: str = ""


_ADAPTER = TypeAdapter(Assignment)
_SYSTEM = TypeAdapter(System)


def encode(assignment: Assignment) -> bytes:
    return _ADAPTER.dump_json(assignment)


@lru_cache(maxsize=1024)
def decode(body: bytes) -> Assignment:
    """Raises pydantic.ValidationError. Most are read again and again without having changed."""
    return _ADAPTER.validate_json(body)


def encode_system(system: System) -> bytes:
    return _SYSTEM.dump_json(system)


def decode_system(body: bytes) -> System:
    """Raises pydantic.ValidationError."""
    return _SYSTEM.validate_json(body)
