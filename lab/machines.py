"""Machines as they really are, whatever a provider says of them, and the data on their disks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from shared.machines import Host, WorkspaceName


class Power(Enum):
    """STOPPED keeps its disk, GONE does not."""

    ON = auto()
    STOPPED = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a tree holds: the last thing that somebody wrote, and what was there before."""

    write: int
    before: "Content | None" = None

    def writes(self) -> Iterator[int]:
        """Newest first."""
        node: Content | None = self
        while node is not None:
            yield node.write
            node = node.before


EMPTY = Content(0)


@dataclass(slots=True)
class Generation:
    """A copy in the store; ``sealed`` is false for one that was never finished."""

    epoch: int
    sequence: int
    content: Content
    source: str
    taken_at: float
    sealed: bool = True
    passed_over: bool = False  # people went back to what was before it

    @property
    def id(self) -> str:
        return f"e{self.epoch:06d}-{self.sequence:08d}"


@dataclass(slots=True)
class Live:
    """The promoted tree, in people's hands unless it is frozen."""

    content: Content
    epoch: int
    frozen: bool = False
    busy: bool = False  # somebody left a process there that writes


@dataclass(slots=True)
class Job:
    """A transfer that runs on the standby."""

    epoch: int
    ended: bool = False


@dataclass(slots=True)
class Disk:
    """What the gate keeps on a host. ``epoch`` is -1 until it is prepared."""

    workspace: WorkspaceName | None = None
    role: str = ""
    machine: str = ""
    epoch: int = -1
    adopted: bool = False
    generations: list[Generation] = field(default_factory=list)
    live: Live | None = None
    jobs: list[Job] = field(default_factory=list)
    tree: Content | None = None
    """On a GPU: what is at the workspace's path."""
    restored: dict[tuple[int, int], Content] = field(default_factory=dict)
    """On a GPU: what each attempt (epoch, attempt) brought, not yet in place."""

    def newest(self) -> Generation | None:
        usable = [generation for generation in self.sealed() if not generation.passed_over]
        return usable[-1] if usable else None

    def sealed(self) -> list[Generation]:
        """All of them, oldest first."""
        return sorted((g for g in self.generations if g.sealed), key=lambda g: g.id)

    def go_back_to(self, wanted: str) -> None:
        """Use this generation, or what is left nearest to it, and none that is newer."""
        sealed = self.sealed()
        if not sealed:
            return
        older = [generation for generation in sealed if generation.id <= wanted]
        chosen = older[-1] if older else sealed[0]
        chosen.passed_over = False
        for generation in self.generations:
            generation.passed_over |= generation.id > chosen.id


@dataclass(slots=True, kw_only=True)
class Machine:
    """One rented machine. Times are seconds of virtual time."""

    provider: str
    provider_id: str
    label: str
    address: str
    port: int
    created_at: float
    boots_at: float
    power: Power = Power.ON
    silent: bool = False  # it runs and answers nobody
    cut_off: bool = False  # it runs, and our network does not reach it
    said_offline: bool = False  # its provider has lost touch with it
    shown_at: float = 0.0  # from then on its provider shows it
    unsuitable: bool = False
    destroy_lies: int = 0  # so many more destroys are answered and not done
    resumes_at: float | None = None
    row: object = None  # the provider's answer about it, until something changes
    disk: Disk = field(default_factory=Disk)
    well_since: float = 0.0
    market_machine: int = 0
    zone: str = ""
    identity: int = 0
    spot: bool = False
    machine_type: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    def up(self, now: float) -> bool:
        return self.power is Power.ON and now >= self.boots_at and not self.silent

    def well(self, now: float) -> bool:
        """Up, and reachable for everybody."""
        return self.up(now) and not self.cut_off and not self.said_offline

    @property
    def billed(self) -> bool:
        return self.power is not Power.GONE


class Fleet:
    """All machines of all clouds, found as the product finds them."""

    def __init__(self) -> None:
        self.by_id: dict[tuple[str, str], Machine] = {}
        self.by_address: dict[str, Machine] = {}

    def add(self, machine: Machine) -> None:
        self.by_id[machine.provider, machine.provider_id] = machine
        self.by_address[machine.address] = machine

    def of(self, host: Host) -> Machine | None:
        return self.by_id.get((host.provider, host.provider_id))

    def of_provider(self, provider: str) -> list[Machine]:
        """Those that are not gone, in the order of their creation."""
        return [m for (name, _), m in self.by_id.items() if name == provider and m.billed]
