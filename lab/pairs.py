"""All pairs of crash points in one incident: killed at one place, started again, killed at another.

The places are the failpoints of the services (``shared/failpoints.py``). A run without any kill
writes down which are passed, a run with one kill which are passed after it: each of those pairs has
a run of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.clock import CURRENT, KilledError, running
from lab.oracle import Finding
from lab.traces import Trace
from lab.world import Plan, Verdict, play
from shared import failpoints

SEED = 7
INCIDENT = Plan(
    seed=SEED,
    hours=0.25,
    workspaces=("one",),
    a_hour=0.0,
    failovers_min=1,
    losses_max=1,
    replicas=1,
    traces=(Trace(60.0, (True, *[False] * 60)),),
    quiet=60.0,
)
"""One workspace from its registration over the loss of its GPU until it is on the next one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process passes: the first time that ``process`` comes by there."""

    process: str
    point: str

    def __str__(self) -> str:
        return f"{self.process} at {self.point}"


@dataclass(slots=True)
class Killer:
    """Kills a process at each of its places, in their order, once."""

    wanted: list[Place] = field(default_factory=list)
    passed: dict[Place, int] = field(default_factory=dict)
    """Each place since the last kill, with the turn of the loop at which it was passed first."""

    def __call__(self, point: str) -> None:
        process = CURRENT.get()
        if process is None or process.kill is None:
            return
        place = Place(process.name, point)
        self.passed.setdefault(place, running().turns)
        if self.wanted and self.wanted[0] == place:
            del self.wanted[0]
            self.passed.clear()
            process.kill()
            raise KilledError(point)

    def places(self) -> tuple[Place, ...]:
        """Every place where a kill makes a difference, in the order of the first time.

        Of places that are passed without a pause between them one stands for all.
        """
        found: dict[tuple[str, int], Place] = {}
        for place, turn in self.passed.items():
            found.setdefault((place.process, turn), place)
        return tuple(found.values())


def incident(*places: Place) -> tuple[Verdict, Killer]:
    """Play the incident with these kills, one after the other."""
    killer = Killer(list(places))
    failpoints.arm(killer)
    try:
        return play(INCIDENT), killer
    finally:
        failpoints.arm(None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run with kills. ``next``: where one more kill makes a difference."""

    places: tuple[Place, ...]
    findings: tuple[Finding, ...]
    next: tuple[Place, ...]

    def then(self) -> Iterator[tuple[Place, ...]]:
        """The same kills, and one more: the process is started again, and killed there as well.

        A place that is not passed again needs no run: nothing would be killed there.
        """
        return ((*self.places, place) for place in self.next)


def outcome(kills: tuple[Place, ...]) -> Outcome:
    """Play the incident with these kills."""
    verdict, killer = incident(*kills)
    assert not killer.wanted, f"nothing passed {killer.wanted[0]}: the incident was another one"
    return Outcome(kills, verdict.findings, killer.places())
