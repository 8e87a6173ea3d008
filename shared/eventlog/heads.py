"""Where the log ended at some time, kept where whoever can change the database cannot.

The hash chain shows a change only to somebody who knows a hash from elsewhere: who rewrites all of
the log, or cuts off its end, leaves a chain that fits. An exported head is such a hash.
"""

import re
from dataclasses import dataclass
from datetime import datetime

_LINE = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})(?: (\S+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedHead:
    """The hash of the record at ``position``, the last one at that moment (None: not known)."""

    position: int
    hash: bytes
    at: datetime | None = None

    def __str__(self) -> str:
        at = f" {self.at.isoformat(timespec='seconds')}" if self.at else ""
        return f"{self.position}:{self.hash.hex()}{at}"


def parse(line: str) -> ExportedHead:
    """Read what ``str`` of one wrote; the time may be missing. Raises ValueError."""
    found = _LINE.fullmatch(line.strip())
    if found is None:
        raise ValueError(f"{line.strip()!r} is no POSITION:HASH")
    position, digest, at = found.groups()
    return ExportedHead(
        position=int(position),
        hash=bytes.fromhex(digest),
        at=datetime.fromisoformat(at) if at else None,
    )
