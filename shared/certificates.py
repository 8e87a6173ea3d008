"""What services ask recovery for on ``dumont.certificates.<service>``, and its answer."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from pydantic import TypeAdapter

from shared.machines import WorkspaceName

BACKDATE = timedelta(seconds=60)
"""How long before it was made a certificate begins.

A host whose clock is behind by less accepts a fresh one at once.
"""

USER_LIFETIME = timedelta(minutes=15)
"""Unless set otherwise; asked for again at half of it."""

GPU_HOST_LIFETIME = timedelta(hours=24)
"""Of the certificate by which a rented machine proves whose host it is."""


class CertificateRole(StrEnum):
    """What a certificate lets its holder do on a host, through the gate."""

    PROBE = "probe"
    READ = "read"
    WRITE = "write"
    PROMOTE = "promote"


ENTITLED: dict[str, frozenset[CertificateRole]] = {
    "health": frozenset({CertificateRole.PROBE}),
    "sync": frozenset({CertificateRole.READ, CertificateRole.WRITE}),
    "recovery": frozenset({CertificateRole.PROBE, CertificateRole.PROMOTE}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    workspace: WorkspaceName
    epoch: int
    role: CertificateRole
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateReply:
    """``certificate`` is an OpenSSH certificate line; empty when refused: ``error`` says why."""

    certificate: str = ""
    error: str = ""


REQUEST = TypeAdapter(CertificateRequest)
REPLY = TypeAdapter(CertificateReply)


def principal(workspace: WorkspaceName, epoch: int, role: CertificateRole) -> str:
    """The name that a host's ``authorized_keys`` line asks for: workspace, epoch, role."""
    return f"{workspace}-e{epoch}-{role.value}"


def host_principal(workspace: WorkspaceName) -> str:
    """The one name under which every host of a workspace is known, used as HostKeyAlias."""
    return f"{workspace}.dumont"
