"""Did every promise hold? Judged from outside: by the simulator's ledger and by walking trees.

Nothing here comes from the services that are judged: a tree is a mapping of path to
``(type, size, hash or target)`` as the machine's own files say, and money is what the simulated
clouds billed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Entry = tuple[str, int, str]
Tree = Mapping[str, Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One promise: ``value`` is what was measured, ``bound`` the most that it may be."""

    name: str
    held: bool
    value: float
    bound: float
    unit: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def at_most(name: str, value: float | None, bound: float, unit: str) -> Promise:
    """Held when it was measured and is not more than ``bound``."""
    measured = value is not None
    return Promise(
        name=name,
        held=value is not None and value <= bound,
        value=round(value, 3) if value is not None and measured else -1.0,
        bound=bound,
        unit=unit,
    )


def exactly(name: str, value: float | None, bound: float, unit: str) -> Promise:
    """Held when it was measured and is ``bound``."""
    return Promise(
        name=name,
        held=value is not None and value == bound,
        value=-1.0 if value is None else value,
        bound=bound,
        unit=unit,
    )


def tree(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """A tree as the simulator's control port gives it."""
    return {
        path: (
            str(entry["type"]),
            int(entry.get("size") or 0) if entry["type"] == "file" else 0,
            str(entry.get("sha256") or entry.get("target") or ""),
        )
        for path, entry in files.items()
    }


def differing(one: Tree, other: Tree, *, without: Iterable[str] = ()) -> list[str]:
    """Paths that are missing on one side or not the same, in order."""
    left_out = set(without)
    return sorted(
        path
        for path in one.keys() | other.keys()
        if path not in left_out and one.get(path) != other.get(path)
    )


@dataclass(frozen=True, slots=True)
class Loss:
    """What the source had at its last moment and the copy has not."""

    files: int
    bytes: int


def loss(source: Tree, copy: Tree) -> Loss:
    """A file counts as lost when it is missing or not the source's last version.

    Its bytes count by as much as it grew (a log that was appended to loses its tail), and whole
    when it did not grow, since then all of it may be new.
    """
    files = bytes_ = 0
    for path, (kind, size, digest) in source.items():
        had = copy.get(path)
        if kind != "file" or had == (kind, size, digest):
            continue
        files += 1
        grew = size - had[1] if had is not None and had[0] == "file" else size
        bytes_ += grew if grew > 0 else size
    return Loss(files, bytes_)


@dataclass(frozen=True, slots=True)
class Bill:
    """What the simulated clouds billed for GPUs.

    ``double_seconds``: with two that we had rented at once; ``zombie_seconds``: of machines that
    the market itself ran again.
    """

    gpus_now: int
    double_seconds: float
    zombie_seconds: float
    usd: float


def bill(ledger: Mapping[str, Any], *, workspace: str | None = None) -> Bill:
    """Read the simulator's ledger: the whole account, or what carries one workspace's label."""
    now = float(ledger["now"])
    rented: list[tuple[float, float]] = []
    zombie = usd = 0.0
    running = 0
    for instance in ledger["instances"]:
        if workspace is not None and not _is_of(workspace, str(instance["label"])):
            continue
        usd += float(instance["running_usd"])
        if instance["kind"] != "gpu":
            continue
        running += any(interval["to"] is None for interval in instance["intervals"])
        for interval in instance["intervals"]:
            began = float(interval["from"])
            ended = now if interval["to"] is None else float(interval["to"])
            if interval["cause"] == "rented":
                rented.append((began, ended))
            else:
                zombie += ended - began
    return Bill(
        gpus_now=running,
        double_seconds=overlap(rented),
        zombie_seconds=zombie,
        usd=usd,
    )


def _is_of(workspace: str, label: str) -> bool:
    """Labels are ``INSTALLATION-WORKSPACE-eN-aM``, the standby's ``...-standby-N``."""
    _, _, rest = label.partition("-")
    return rest.startswith((f"{workspace}-e", f"{workspace}-standby-"))


def overlap(intervals: Sequence[tuple[float, float]]) -> float:
    """Seconds during which at least two of the intervals run."""
    edges = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    total = 0.0
    running = 0
    since = 0.0
    for at, step in edges:
        if running >= 2:
            total += at - since
        running += step
        since = at
    return total


def missing_writes(acknowledged: Iterable[int], kept: bytes) -> list[int]:
    """Numbers that a client was told are safe and that the file does not hold."""
    held = {int(line) for line in kept.split(b"\n") if line.isdigit()}
    return sorted(set(acknowledged) - held)
