"""One run: the world, the services in it, the faults, the settling, and the verdict."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

from lab import faults, services
from lab.book import Book, Truth
from lab.chance import Chance
from lab.clock import CURRENT, VirtualTimeLoop, now
from lab.cloud import Market, Project, Watchers
from lab.endpoint import LabEndpoint
from lab.faults import Fault, Loss
from lab.hosts import Grounds
from lab.machines import Fleet, Machine
from lab.network import Connection, Server
from lab.oracle import Finding, Oracle
from lab.people import Messenger, People
from lab.processes import Graveyard, Supervised
from lab.services import PORTS, Intervals, Surroundings
from lab.story import Story
from lab.traces import Trace
from lab.wire import WORLD
from services.api.service import Follower, Requests
from services.recovery.domain.freshness import staleness
from services.recovery.domain.mortality import BOTH_LOST, only_on_the_gpu
from services.recovery.domain.state import End, Phase
from services.recovery.service import Recovery
from shared import codec
from shared.clock import NewId
from shared.envelope import Envelope
from shared.eventlog.verify import Verifier
from shared.events import Event
from shared.machines import Host, WorkspaceName
from shared.subjects import inbox

POLICY: dict[str, Any] = {
    "health_interval": 300.0,
    "failover_threshold": 2,
    "sync_interval": 900.0,
    "generation_age_max": 3600.0,
    "probe_timeout": 5.0,
    "cooldown": 60.0,
    "ssh_timeout": 240.0,
    "search_retries": 3,
    "search_wait_max": 300.0,
}
INTERVALS = Intervals()
APPEND_SECONDS = 5.0
"""How long an append takes at most, in a world without faults."""
SETTLE_SECONDS = 7200.0
FAILOVERS_MIN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """Every guard is on; a test takes one away to see that somebody notices."""

    lease: bool = True
    version: bool = True
    epoch_on_host: bool = True
    sealed_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is made of. ``without``: numbers of planned faults that are left out."""

    seed: int
    hours: float = 4.0
    workspaces: tuple[str, ...] = faults.WORKSPACES
    guards: Guards = field(default_factory=Guards)
    without: frozenset[int] = frozenset()
    a_hour: float = 15.0
    only: tuple[str, ...] = ()
    faults: tuple[Fault, ...] | None = None
    """In place of those that the seed would plan: what a stored story does."""
    failovers_min: int = FAILOVERS_MIN
    """The run goes on until it saw so many, and takes no GPU afterwards; 0: as many as come."""
    losses_max: int = 100
    replicas: int = 2
    traces: tuple[Trace, ...] = ()
    quiet: float = 600.0
    """How long everything must stay at rest before it counts, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a run. ``digest`` is the hash of its whole log: the same for the same seed."""

    seed: int
    findings: tuple[Finding, ...]
    met: dict[str, int]
    failovers: int
    events: int
    hours: float
    digest: str
    story: Story

    @property
    def ok(self) -> bool:
        return not self.findings


class World:
    """Everything around the services, and the services."""

    def __init__(self, plan: Plan, loop: VirtualTimeLoop) -> None:
        self.plan = plan
        self.chance = Chance(plan.seed)
        self._loop = loop
        self.fleet = Fleet()
        self.oracle = Oracle(self.fleet, loop.time)
        self.story = Story(loop.time)
        self.active: list[Fault] = []
        self.struck: dict[Fault, Machine] = {}
        self.heard: list[tuple[str, Envelope]] = []
        self.new_id: NewId = _identities()
        self.market, self.project = self._clouds()
        self.grounds = Grounds(self.fleet, self.chance.of("hosts"), self.oracle.witness())
        self.grounds.moods.epoch_checked = plan.guards.epoch_on_host
        self.grounds.moods.promotes_sealed_only = plan.guards.sealed_only
        self.endpoint = LabEndpoint(PORTS, self.fleet, self.chance.of("endpoint"))
        self.endpoint.on_point = self.oracle.pointed
        self.server = Server(self.chance.of("bus"), recheck=240.0, on_kept=self._kept)
        self.book = self._log()
        self._acting = ""
        self.requests: Requests | None = None
        self.follower: Follower | None = None
        self.recoveries: dict[str, Recovery] = {}
        self.people = People(self)
        self.messenger = Messenger()
        self.processes = self._services()
        self._losing = True
        self._tasks: list[asyncio.Task[None]] = []

    def _clouds(self) -> tuple[Market, Project]:
        watchers = Watchers(
            creating=lambda cloud, label: self.oracle.creating(cloud, label, _who()),
            destroying=self.oracle.ending,
            listed=lambda cloud, machines: self.oracle.listed(cloud, machines, _who()),
            gone=lambda machine: self.oracle.gone(machine, _who()),
            met=self.oracle.meet,
        )
        return (
            Market("vast", self.fleet, self.chance.of("vast"), watchers),
            Project("gce", self.fleet, self.chance.of("gce"), watchers),
        )

    def _log(self) -> Book:
        truth = Truth(now=self._loop.now)
        truth.lease_checked = self.plan.guards.lease
        truth.version_checked = self.plan.guards.version
        return Book(truth, self.chance.of("log"), on_append=self._appended)

    def _services(self) -> dict[str, Supervised]:
        at = Surroundings(
            book=self.book,
            market=self.market,
            project=self.project,
            grounds=self.grounds,
            endpoint=self.endpoint,
            intervals=INTERVALS,
            notices=self.messenger,
            now=self._loop.now,
            steady=self._loop.time,
            new_id=self.new_id,
            chance=self.chance.of("pauses").random,
        )

        def recovery(name: str) -> Coroutine[Any, Any, None]:
            bus = Connection(self.server, "recovery")
            return services.recovery(at, bus, name, partial(self._recovery_began, name))

        mains: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "recovery-1": partial(recovery, "recovery-1"),
            "recovery-2": partial(recovery, "recovery-2"),
            "health": lambda: services.health(at, Connection(self.server, "health")),
            "sync": lambda: services.sync(at, Connection(self.server, "sync")),
            "api": lambda: services.api(at, Connection(self.server, "api"), self._api_began),
        }
        if self.plan.replicas == 1:
            del mains["recovery-2"]
        return {name: Supervised(name, main, on_end=self._died) for name, main in mains.items()}

    # --- what everybody uses

    @property
    def now(self) -> float:
        return self._loop.time()

    def tell(self, who: str, what: "str | Envelope") -> None:
        self.story.tell(who, what)

    def meet(self, what: str) -> None:
        self.oracle.meet(what)

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        self._loop.arrange(seconds, do)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self._loop.create_task(work, context=WORLD.copy()))

    def say(self, service: str, event: Event) -> None:
        """Put a fact in the inbox as a service would."""
        envelope = Envelope(id=self.new_id(), source=service, time=now(), event=event)
        subject = inbox(service, event.workspace, event.type)
        self.server.deliver(subject, codec.encode(envelope))

    # --- what it hears

    def _appended(self, who: str, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            self.story.tell(who, envelope)
        self.oracle.appended(who, envelopes)

    def _kept(self, subject: str, envelope: Envelope) -> None:
        if envelope.position is None:
            self.oracle.kept[envelope.id] = envelope.event.type
            self.heard.append((subject, envelope))

    def _recovery_began(self, name: str, recovery: Recovery) -> None:
        self.tell(name, "acts")
        if self._acting not in {"", name}:
            self.meet("takeover: another replica acts")
        self._acting = name
        self.recoveries[name] = recovery

    def _api_began(self, follower: Follower, requests: Requests) -> None:
        self.follower, self.requests = follower, requests

    def _died(self, name: str, error: BaseException) -> None:
        self.tell(name, f"died of {error!r}")
        self.oracle.broken("services end only where they must", f"{name}: {error!r}")

    # --- the run

    async def run(self) -> None:
        """All of it; findings are the oracle's."""
        for process in self.processes.values():
            process.start()
        names = [WorkspaceName(name) for name in self.plan.workspaces]
        for name in names:
            # A watch is only an earlier copy: one workspace is enough to see that it does no harm.
            self.spawn(self.people.register(name, POLICY | {"watch": name == names[0]}))
            self.spawn(self.people.work(name))
            self.spawn(self.people.look_after(name))
            self.spawn(self._lose(name))
        for fault in self._faults():
            self.later(fault.at, partial(faults.begin, self, fault))
        await asyncio.sleep(self.plan.hours * 3600)
        while self.failovers() < self.plan.failovers_min and self.now < 2 * self.plan.hours * 3600:
            await asyncio.sleep(60)
        self._calm()
        await self._settled(names)
        self._judge(names)

    def _faults(self) -> list[Fault]:
        every = planned(self.plan)
        return [fault for number, fault in enumerate(every) if number not in self.plan.without]

    def failovers(self) -> int:
        return sum(book.failovers for book in self.oracle.books.values())

    async def _lose(self, workspace: WorkspaceName) -> None:
        """Its GPU is lost again and again, each time after it was protected for a while."""
        for loss in islice(self._losses(workspace), self.plan.losses_max):
            while not self._protected(workspace):
                await asyncio.sleep(30)
            await asyncio.sleep(loss.gap)
            if not self._losing or 0 < self.plan.failovers_min <= self.failovers():
                return
            primary = self.oracle.book(workspace).state.primary
            machine = self.fleet.of(primary) if primary else None
            if machine is not None and machine.well(self.now):
                self.tell("market", f"{machine.label} is lost: {loss.mode}")
                faults.lose(self, machine, loss)

    def _losses(self, workspace: WorkspaceName) -> Iterator[Loss]:
        chance = self.chance.of(f"losses/{workspace}")
        if not self.plan.traces:
            return faults.losses(chance)
        number = self.plan.workspaces.index(workspace) + self.plan.seed
        return self.plan.traces[number % len(self.plan.traces)].losses(chance)

    def _protected(self, workspace: WorkspaceName) -> bool:
        state = self.oracle.book(workspace).state
        return state.phase is Phase.SYNCING and not state.resume_owed

    def _calm(self) -> None:
        """Nothing fails from here on; what was broken by then stays for the product to mend."""
        self.tell("lab", "the faults are over")
        self._losing = False
        for fault in list(self.active):
            faults.finish(self, fault)
        for process in self.processes.values():
            process.resume()

    async def _settled(self, names: Sequence[WorkspaceName]) -> None:
        deadline = self.now + SETTLE_SECONDS
        calm_since = self.now
        while self.now < deadline:
            await asyncio.sleep(min(60.0, self.plan.quiet / 2))
            if not all(self._at_rest(name) for name in names):
                calm_since = self.now
            elif self.now - calm_since > self.plan.quiet:
                return

    def _at_rest(self, workspace: WorkspaceName) -> bool:
        return not self._unrest(workspace)

    def _unrest(self, workspace: WorkspaceName) -> str:
        """What keeps a workspace from its goal; empty when nothing does."""
        state = self.oracle.book(workspace).state
        if any(not owed.seen for owed in state.condemned):
            return f"machines are still owed their end: {[c.machine for c in state.condemned]}"
        if state.phase in {Phase.HALTED, Phase.REMOVED}:
            return ""
        if state.phase is not Phase.SYNCING:
            return f"it is {state.phase} {state.step}"
        if self._waits_for_a_person(workspace):
            return ""
        if state.resume_owed or state.suspicion or state.standby.lost or not state.generation:
            return "it is not protected"
        unseen = [
            host.id
            for host in (state.primary, state.standby.host)
            if host is not None and not self._well(host)
        ]
        return f"nobody saw that {unseen} do not run" if unseen else ""

    def _well(self, host: Host) -> bool:
        machine = self.fleet.of(host)
        return machine is not None and machine.well(self.now)

    def _waits_for_a_person(self, workspace: WorkspaceName) -> bool:
        """The GPU stands still and the copy is too old, or there is none: people were told."""
        state = self.oracle.book(workspace).state
        refused = state.suspicion is not None and bool(state.suspicion.refused)
        gpu = self.fleet.of(state.primary) if state.primary else None
        alone = only_on_the_gpu(state) and gpu is not None and gpu.billed
        return refused and (alone or staleness(state, now()) is not None)

    # --- the verdict

    def _judge(self, names: Sequence[WorkspaceName]) -> None:
        oracle = self.oracle
        for name in names:
            unrest = self._unrest(name)
            oracle.demand(not unrest, "every incident ends", f"{name}: {unrest}")
            owed = oracle.book(name).state.notices
            oracle.demand(not owed, "people are told", f"{name}: {owed[:1]}")
            self._judge_halts(name)
            self._judge_machines(name)
        lost = [what for id_, what in oracle.kept.items() if id_ not in oracle.recorded]
        # What cannot be decided is kept aside: it is not lost.
        oracle.demand(
            len(lost) <= len(self.server.deadletters), "what was kept is recorded", f"{lost[:5]}"
        )
        self._judge_folds(names)
        self._judge_log()

    def _judge_halts(self, workspace: WorkspaceName) -> None:
        """Each halt was told: a crash between halt and notice makes no difference."""
        told = sum(
            name == workspace and notice.severity == "critical"
            for name, notice in self.messenger.told
        )
        halts = self.oracle.book(workspace).halts
        self.oracle.demand(told >= halts, "every halt is told", f"{workspace}: {told} of {halts}")

    def _judge_machines(self, workspace: WorkspaceName) -> None:
        if self._waits_for_a_person(workspace):
            self.meet("end: the copy is stale, a person decides")
            return
        state = self.oracle.book(workspace).state
        prefix = f"{services.INSTALLATION}-{workspace}-"
        for provider, host in (("vast", state.primary), ("gce", state.standby.host)):
            billed = [
                m.provider_id
                for m in self.fleet.of_provider(provider)
                if m.label.startswith(prefix)
            ]
            wanted = [host.provider_id] if host is not None and host.provider == provider else []
            # Where the only copy is gone, what may still have the data is left to people.
            halted = state.phase is Phase.HALTED
            kept = {
                c.provider_id for c in state.condemned if c.keep or (halted and c.end is End.STOP)
            }
            billed = [provider_id for provider_id in billed if provider_id not in kept]
            if provider == "vast" and halted:
                # It is gone, and kept in mind should it come back with the data.
                wanted = [provider_id for provider_id in wanted if provider_id in billed]
            self.oracle.demand(
                billed == wanted,
                "exactly what is needed is billed",
                f"{workspace} ({state.phase}): {provider} bills {billed}, in service is {wanted}",
            )
        if state.reason == BOTH_LOST:
            self.meet("end: GPU and standby both lost")
        if state.phase is Phase.SYNCING and state.primary is not None:
            behind = self.endpoint.behind(state.endpoint_port)
            label = behind.label if behind else None
            self.oracle.demand(
                label == state.primary.id,
                "the endpoint leads to the primary",
                f"{workspace}: it leads to {label}, the primary is {state.primary.id}",
            )

    def _judge_folds(self, names: Sequence[WorkspaceName]) -> None:
        """Whoever holds a state has it from the log; who acts or shows has read nearly all of it.

        Not all: an append or a read may be under way at any moment.
        """
        oracle = self.oracle
        for name in names:
            for replica, recovery in self.recoveries.items():
                held = recovery.states.get(name)
                if held is not None:
                    oracle.replica(replica, name, held.state, held.version)
                if replica == self._acting:
                    oracle.up_to_date(replica, name, held.position if held else 0, APPEND_SECONDS)
            if self.follower is not None:
                board = self.follower.board
                oracle.reader(name, board.workspace(name), board.position)
                oracle.up_to_date("api", name, board.position, 2 * INTERVALS.follow)

    def _judge_log(self) -> None:
        verifier = Verifier()
        for record in self.book.truth.rows:
            verifier.look(record)
        self.oracle.demand(
            not verifier.findings, "the log's chain is whole", f"{verifier.findings[:3]}"
        )

    def verdict(self) -> Verdict:
        rows = self.book.truth.rows
        return Verdict(
            seed=self.plan.seed,
            findings=tuple(self.oracle.findings),
            met=dict(self.oracle.met),
            failovers=self.failovers(),
            events=len(rows),
            hours=self.now / 3600,
            digest=rows[-1].hash.hex() if rows else "",
            story=self.story,
        )


def planned(plan: Plan) -> Sequence[Fault]:
    """The faults of a plan, with those that it leaves out."""
    if plan.faults is not None:
        return plan.faults
    chance = Chance(plan.seed).of("faults")
    return faults.planned(chance, plan.hours, a_hour=plan.a_hour, only=plan.only)


def play(plan: Plan) -> Verdict:
    """Run a plan from its beginning to its verdict."""
    loop = VirtualTimeLoop()
    graveyard = Graveyard(loop)
    world = World(plan, loop)
    try:
        loop.run_until_complete(world.run())
    except RuntimeError as error:  # a deadlock, or a loop without end
        world.oracle.broken("time goes on", str(error))
    finally:
        graveyard.close()
        loop.close()
    return world.verdict()


def _who() -> str:
    process = CURRENT.get()
    return process.name if process else "the world"


def _identities() -> NewId:
    """Identities in order, the same in every run."""
    last = 1 << 64

    def new_id() -> UUID:
        nonlocal last
        last += 1
        return UUID(int=last)

    return new_id
