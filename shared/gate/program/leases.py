"""Until when a session may work: the end of its certificate, kept by this host's own clocks.

sshd asks for a valid certificate at the login and never again, so a session may outlive it by
hours. It must not: a standby that is cut off from the controller has to stop by itself. The gate
reads the end from the certificate that this session came with, which sshd shows it.
"""

from __future__ import annotations

import base64
import os
import struct
import time

from .refusals import Refusal

LONGEST_SECONDS = 15 * 60.0
"""What a session is given by an sshd that does not show certificates."""

_ED25519 = "ssh-ed25519-cert-v01@openssh.com"
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Lease:
    """The earliest of all ends that were set; which of two clocks sees it first does not matter.

    The wall clock alone could be set back; the other one may stand still while a virtual machine
    is suspended.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[float, float]] = []

    def ends_at(self, moment: float) -> None:
        """Let it end at a time of the wall clock, in seconds since 1970, if not before."""
        self._ends.append((moment, _steady() + moment - time.time()))

    def left(self) -> float:
        """In seconds; negative when it is over."""
        wall, steady = time.time(), _steady()
        return min(
            (min(end - wall, other - steady) for end, other in self._ends),
            default=LONGEST_SECONDS,
        )

    def demand(self) -> None:
        """Raises Refusal ``certificate-over``."""
        if self.left() <= 0:
            raise over()


lease = Lease()
"""Of this process: it serves one session."""


def over() -> Refusal:
    return Refusal(
        "certificate-over",
        "the certificate ran out before this was done",
        "ask again with a new one: what was copied is kept",
    )


def begin_lease() -> None:
    """Bound this session by the certificate that it logged in with."""
    end = shown_end(os.environ.get("SSH_USER_AUTH", ""))
    lease.ends_at(time.time() + LONGEST_SECONDS if end is None else end)


def shown_end(path: str) -> float | None:
    """The end of the certificate in the file where sshd says how a session was let in."""
    try:
        with open(path, encoding="ascii") as file:
            words = file.read().split()
        return certificate_end(f"{_ED25519} {words[words.index(_ED25519) + 1]}")
    except (OSError, ValueError, IndexError):
        return None


def certificate_end(line: str) -> float:
    """When a certificate line ceases to be valid, in seconds since 1970. Raises ValueError."""
    kind, blob = (*line.split(), "", "")[:2]
    try:
        rest = base64.b64decode(blob, validate=True)
        rest = after_strings(rest, 3)[12:]  # type, nonce, key; then the serial and the kind
        _, end = struct.unpack_from(">QQ", after_strings(rest, 2))  # key id, principals
    except (struct.error, ValueError):
        kind, end = "", 0
    if kind != _ED25519:
        raise ValueError("this is no ed25519 certificate")
    return float(end)


def after_strings(blob: bytes, number: int) -> bytes:
    """What follows so many strings of SSH's wire format."""
    for _ in range(number):
        (size,) = struct.unpack_from(">I", blob)
        blob = blob[4 + size :]
    return blob


def _steady() -> float:
    return time.clock_gettime(_BOOTTIME)
