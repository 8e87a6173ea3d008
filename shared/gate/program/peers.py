"""Reaching another host of the workspace by ssh, with nothing of this host's own settings."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from .answers import Answer
from .host import Session
from .keys import key_of, single
from .leases import certificate_end, lease
from .refusals import Refusal

_ADDRESS = re.compile(r"[A-Za-z0-9.:][A-Za-z0-9.:-]*")
_USER = re.compile(r"[a-z_][a-z0-9_-]*")

ALIVE_SECONDS, ALIVE_MISSED = 2, 3
"""A peer that says nothing for so long and so often is dead: a stream is begun anew within 10 s."""


class Peer(NamedTuple):
    """A host that the standby reaches, with what proves each to the other."""

    address: str
    port: int
    user: str
    ssh: list[str]

    @property
    def rsync_name(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.user}@{address}"

    @property
    def rsync_shell(self) -> str:
        return shlex.join(self.ssh)


@contextlib.contextmanager
def reach(session: Session, host: Any, payload: Answer) -> Iterator[Peer]:
    """How to reach a host with this epoch's key and the certificate that came with the request."""
    key = key_of(session.epoch)
    if not os.path.exists(key):
        raise Refusal("no-key", f"there is no key for epoch {session.epoch}", "ask for keypair")
    address, port, user = str(host["address"]), int(host["port"]), str(host["user"])
    if not _ADDRESS.fullmatch(address) or not _USER.fullmatch(user):
        raise Refusal("bad-request", f"{user!r} at {address!r} is no login")
    certificate_line = single(payload["certificate"])
    lease.ends_at(certificate_end(certificate_line))
    name = f"{session.host.workspace}.dumont"
    mark = f"{os.path.dirname(key)}/{os.getpid()}"
    known, certificate = f"{mark}.known_hosts", f"{mark}-cert.pub"
    for path, text in (
        (known, f"@cert-authority {name} {single(payload['host_ca'])}\n"),
        (certificate, f"{certificate_line}\n"),
    ):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": known,
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": name,
        "CertificateFile": certificate,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UpdateHostKeys": "no",
        "ConnectTimeout": "10",
        "ServerAliveInterval": str(ALIVE_SECONDS),
        "ServerAliveCountMax": str(ALIVE_MISSED),
        "LogLevel": "ERROR",
    }
    ssh = ["ssh", "-F", "none", "-T", "-c", "aes128-gcm@openssh.com,chacha20-poly1305@openssh.com"]
    for option, value in options.items():
        ssh += ["-o", f"{option}={value}"]
    try:
        yield Peer(address, port, user, [*ssh, "-i", key, "-p", str(port)])
    finally:
        for path in (known, certificate):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
