"""Whether the log is whole: positions, versions and the hash chain, from the first record on.

And whether it still is the one that was exported: who may change everything in the database can
make a chain that fits, but not one with the hashes that were seen elsewhere before.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from shared.eventlog.canonical import GENESIS, Record, digest
from shared.eventlog.heads import ExportedHead


class Records(Protocol):
    """A log that shows its rows as they are."""

    async def records(self, *, after: int = 0, limit: int = 1000) -> list[Record]: ...

    async def claimed_head(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it was recorded. ``position`` is where it shows."""

    position: int
    what: str


@dataclass(slots=True)
class Verifier:
    """Fed with records in order of position; ``findings`` grows. ``heads`` by position."""

    heads: dict[int, list[ExportedHead]] = field(default_factory=dict)

    position: int = 0
    hash: bytes = GENESIS
    versions: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def look(self, record: Record) -> None:
        if record.position != self.position + 1:
            missing = f"{self.position + 1} to {record.position - 1}"
            self._find(record, f"positions {missing} are missing")
        elif record.prev_hash != self.hash:
            self._find(record, f"does not follow position {self.position}: the chain is broken")
        if digest(record) != record.hash:
            self._find(record, f"{record.type} was changed after it was recorded")
        expected = self.versions.get(record.stream_id, 0) + 1
        if record.version != expected:
            self._find(record, f"{record.stream_id}: version {record.version}, not {expected}")
        for head in self.heads.pop(record.position, []):
            if head.hash != record.hash:
                what = "the log was written anew, here or before"
                self._find(record, f"is not what was exported{_when(head)}: {what}")
        self.position, self.hash = record.position, record.hash
        self.versions[record.stream_id] = record.version

    def end(self, claimed_head: int) -> None:
        if claimed_head > self.position:
            what = f"positions {self.position + 1} to {claimed_head} are missing at the end"
            self.findings.append(Finding(position=claimed_head, what=what))
        for position, [head, *_] in sorted(self.heads.items()):
            if position > self.position:
                what = f"was exported{_when(head)}, and the log ends at {self.position}: it was cut"
            else:
                what = f"was exported{_when(head)} and is missing"
            self.findings.append(Finding(position=position, what=what))

    def _find(self, record: Record, what: str) -> None:
        self.findings.append(Finding(position=record.position, what=what))


def _when(head: ExportedHead) -> str:
    return f" at {head.at.isoformat(timespec='seconds')}" if head.at else ""


async def verify(
    log: Records, *, heads: Iterable[ExportedHead] = (), page: int = 1000
) -> list[Finding]:
    """Read the whole log and say what is wrong with it; nothing when all is well.

    It must contain each of ``heads``. ``claimed_head`` is read first, so that events recorded
    meanwhile are no finding.
    """
    claimed = await log.claimed_head()
    verifier = Verifier()
    for head in heads:
        verifier.heads.setdefault(head.position, []).append(head)
    while records := await log.records(after=verifier.position, limit=page):
        for record in records:
            verifier.look(record)
    verifier.end(claimed)
    return verifier.findings
