"""All pairs of crash points in one incident: killed at one place, started again, killed at another.

The places are the failpoints of the services (``shared/failpoints.py``). At each that is passed the
process of the lab is copied: the copy kills there and goes on, with a copy of its own at each place
that it passes then, and the original goes on as if nothing had been. So each pair of places is
played, and what lies before a kill is played once for all that come after it.
"""

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

from lab import campaign
from lab.clock import CURRENT, KilledError, running
from lab.oracle import Finding
from lab.traces import Trace
from lab.world import Plan, Verdict, play
from shared import failpoints

KILLS = 2
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


Chosen = Callable[[tuple[Place, ...], Place], bool]
"""Whether to kill at a place, after the kills that there were."""


class Killer:
    """Asks at each place that is passed for the first time since the last kill.

    Of places that are passed without a pause between them one stands for all.
    """

    def __init__(self, chosen: Chosen) -> None:
        self.kills: tuple[Place, ...] = ()
        self._chosen = chosen
        self._passed: set[Place] = set()
        self._turns: set[tuple[str, int]] = set()

    def __call__(self, point: str) -> None:
        process = CURRENT.get()
        if process is None or process.kill is None:
            return
        place, turn = Place(process.name, point), (process.name, running().turns)
        if place in self._passed:
            return
        self._passed.add(place)
        if turn in self._turns:
            return
        self._turns.add(turn)
        if self._chosen(self.kills, place):
            self.kills = (*self.kills, place)
            self._passed.clear()
            self._turns.clear()
            process.kill()
            raise KilledError(point)


def incident(*places: Place) -> Verdict:
    """Play the incident with these kills, one after the other.

    Raises ValueError for a place that is not passed after those before it.
    """
    killer = Killer(lambda kills, place: places[len(kills) : len(kills) + 1] == (place,))
    verdict = _played(killer)
    if killer.kills != places:
        raise ValueError(f"nothing passed {places[len(killer.kills)]}")
    return verdict


def _played(killer: Killer) -> Verdict:
    failpoints.arm(killer)
    try:
        return play(INCIDENT)
    finally:
        failpoints.arm(None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the incident with these kills. ``digest`` as in Verdict."""

    kills: tuple[Place, ...]
    findings: tuple[Finding, ...]
    digest: str


def everywhere(workers: int) -> Iterator[Outcome]:
    """The incident without a kill, with each one, and with each pair, on so many processes."""
    # Spawned, not forked: there may be threads here, and a copy has to be whole.
    context = get_context("spawn")
    readers: list[Connection] = []
    processes = []
    for share in range(workers):
        reader, writer = context.Pipe(duplex=False)
        processes.append(context.Process(target=explore, args=(share, workers, writer)))
        processes[-1].start()
        writer.close()
        readers.append(reader)
    while readers:
        for ready in wait(readers):
            assert isinstance(ready, Connection)
            try:
                yield ready.recv()
            except EOFError:
                readers.remove(ready)
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a process of the lab ended with {process.exitcode}")


def explore(share: int, shares: int, report: "Connection[Outcome, object]") -> None:
    """Send what came of this share: each so many-th first kill, with every second one.

    Only in a process of its own: its copies end where this returns.
    """
    campaign.quiet()
    gc.disable()  # it would touch, and so copy, everything that a copy shares
    numbers = count()

    def chosen(kills: tuple[Place, ...], place: Place) -> bool:
        if len(kills) == KILLS or (not kills and next(numbers) % shares != share):
            return False
        loop = running()
        copy = os.fork()
        if copy == 0:
            asyncio._set_running_loop(loop)  # it counts for the process that it was set in
            return True
        _, status = os.waitpid(copy, 0)
        if status:
            died = Finding(0.0, "the lab itself", f"ended with {os.waitstatus_to_exitcode(status)}")
            report.send(Outcome((*kills, place), (died,), ""))
        return False

    killer = Killer(chosen)
    verdict = _played(killer)
    if killer.kills or share == 0:
        report.send(Outcome(killer.kills, verdict.findings, verdict.digest))
    if killer.kills:
        os._exit(0)
