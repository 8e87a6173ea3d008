"""What goes wrong in a run: planned from the seed as data, so that any of it can be left out."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any

from lab.clock import now
from lab.cloud import power_off, power_on
from lab.machines import Machine, Power
from lab.network import EVERYTHING
from shared import codec
from shared.events.health import ThresholdReached
from shared.machines import Role, WorkspaceName

if TYPE_CHECKING:
    from lab.world import World

PROCESSES = ("recovery-1", "recovery-2", "health", "sync", "api")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """``at`` seconds after the start, for ``seconds``. ``share`` says how bad, 0 to below 1."""

    at: float
    kind: str
    target: str = ""
    seconds: float = 0.0
    share: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.0f} s" if self.seconds else ""
        return f"{self.kind} {self.target}".rstrip() + lasts

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The GPU of a workspace is lost ``gap`` seconds after it was protected again."""

    gap: float
    mode: str
    returns: float = 0.0
    """So many seconds later it is back and goes on as if nothing had happened; 0: never."""


Step = Callable[["World", Fault], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """``weight``: how often, against the others. ``seconds``: shortest and longest."""

    weight: float
    seconds: tuple[float, float]
    begin: Step
    end: Step = lambda _, __: None
    targets: tuple[str, ...] = ("",)


def moody(part: str, name: str, bad: Callable[[Fault], Any]) -> tuple[Step, Step]:
    """A fault that changes how a part of the world is for a while."""

    def begin(world: "World", fault: Fault) -> None:
        setattr(getattr(world, part).moods, name, bad(fault))

    def end(world: "World", _: Fault) -> None:
        moods = getattr(world, part).moods
        setattr(moods, name, getattr(type(moods)(), name))

    return begin, end


def _kill(world: "World", fault: Fault) -> None:
    world.processes[fault.target].kill()


def _pause(world: "World", fault: Fault) -> None:
    world.processes[fault.target].pause()


def _resume(world: "World", fault: Fault) -> None:
    world.processes[fault.target].resume()


def _log(name: str, bad: Callable[[Fault], Any], good: Any) -> tuple[Step, Step]:
    def begin(world: "World", fault: Fault) -> None:
        setattr(world.book, name, bad(fault))

    def end(world: "World", _: Fault) -> None:
        setattr(world.book, name, good)

    return begin, end


def _bus_down(world: "World", _: Fault) -> None:
    world.server.up = False


def _bus_up(world: "World", _: Fault) -> None:
    world.server.up = True
    world.server.wake(*EVERYTHING)


def _bus_wiped(world: "World", _: Fault) -> None:
    world.oracle.kept = {
        id_: what for id_, what in world.oracle.kept.items() if id_ in world.oracle.recorded
    }
    world.server.wipe()


def _garbage(world: "World", fault: Fault) -> None:
    bodies = (b"", b"[1", b"{}", b'{"specversion":"1.0","type":"dumont.Nothing.v9","data":{}}')
    body = bodies[int(fault.share * len(bodies))]
    world.server.deliver("dumont.inbox.health.one.HealthFailed", body)


def _replayed(world: "World", fault: Fault) -> None:
    """Something that was said long ago is delivered once more."""
    said = world.heard
    if said:
        subject, envelope = said[int(fault.share * len(said))]
        world.server.deliver(subject, codec.encode(envelope))


def _forged(world: "World", fault: Fault) -> None:
    """Health says that a GPU is dead, whatever it saw: it may be mad, or not health at all."""
    state = world.oracle.book(WorkspaceName(fault.target)).state
    if state.primary is not None:
        event = ThresholdReached(
            workspace=state.workspace,
            epoch=state.epoch,
            machine=state.primary.id,
            role=Role.GPU,
            failures=3,
            threshold=3,
            reason="somebody says so",
            positive=fault.share < 0.5,
        )
        world.say("health", event)


def _deaf(world: "World", _: Fault) -> None:
    """The controller's own network is down: nobody outside answers it."""
    world.grounds.moods.controller_deaf = True
    world.market.moods.unreached = world.project.moods.unreached = True
    world.oracle.deaf_changed_at = world.now


def _heard(world: "World", _: Fault) -> None:
    world.grounds.moods.controller_deaf = False
    world.market.moods.unreached = world.project.moods.unreached = False
    world.oracle.deaf_changed_at = world.now


def _nobody_told(world: "World", _: Fault) -> None:
    world.messenger.answers = False


def _told_again(world: "World", _: Fault) -> None:
    world.messenger.answers = True


def _endpoint_down(world: "World", _: Fault) -> None:
    world.endpoint.up = False


def _endpoint_up(world: "World", _: Fault) -> None:
    world.endpoint.up = True
    world.endpoint.forget()


def _standby(world: "World", fault: Fault) -> Machine | None:
    host = world.oracle.book(WorkspaceName(fault.target)).state.standby.host
    return world.fleet.of(host) if host else None


def _gpu(world: "World", fault: Fault) -> Machine | None:
    host = world.oracle.book(WorkspaceName(fault.target)).state.primary
    return world.fleet.of(host) if host else None


def _candidate(world: "World", fault: Fault) -> Machine | None:
    host = world.oracle.book(WorkspaceName(fault.target)).state.attempt.host
    return world.fleet.of(host) if host else None


def _preempted(world: "World", fault: Fault) -> None:
    machine = _standby(world, fault)
    if machine is not None and machine.power is Power.ON:
        power_off(machine)


def _standby_gone(world: "World", fault: Fault) -> None:
    """With its disk: the copy, or the original."""
    machine = _standby(world, fault)
    if machine is not None and machine.billed:
        power_off(machine)
        machine.power = Power.GONE
        world.oracle.disk_lost(WorkspaceName(fault.target))


def _silent(find: Callable[["World", Fault], Machine | None]) -> tuple[Step, Step]:
    return _flag(find, "silent")


def _flag(find: Callable[["World", Fault], Machine | None], name: str) -> tuple[Step, Step]:
    """A machine is so for a while. Whoever has that role by then is well again."""

    def begin(world: "World", fault: Fault) -> None:
        machine = find(world, fault)
        if machine is not None:
            setattr(machine, name, True)
            machine.row = None
            world.struck[fault] = machine

    def end(world: "World", fault: Fault) -> None:
        machine = world.struck.pop(fault, None)
        if machine is not None:
            setattr(machine, name, False)
            machine.row, machine.well_since = None, world.now

    return begin, end


def _candidate_dies(world: "World", fault: Fault) -> None:
    machine = _candidate(world, fault)
    if machine is not None:
        world.meet("candidate: lost")
        lose(world, machine, Loss(gap=0, mode="outbid" if fault.share < 0.5 else "gone"))


def _asked(verb: str) -> Step:
    def ask(world: "World", fault: Fault) -> None:
        world.people.wish(WorkspaceName(fault.target), verb)

    return ask


def _go_back(world: "World", fault: Fault) -> None:
    """The data was spoilt some time ago, and somebody sees it now."""
    before = now() - timedelta(seconds=60 + 3600 * fault.share)
    world.people.wish(WorkspaceName(fault.target), "failover", before=before.isoformat())


def lose(world: "World", machine: Machine, loss: Loss) -> None:
    """The market, or bad luck, takes a GPU."""
    world.meet(f"gpu: {loss.mode}{' and returned' if loss.returns else ''}")
    match loss.mode:
        case "outbid":
            power_off(machine)
        case "gone":
            power_off(machine)
            machine.power = Power.GONE
        case "silent":
            machine.silent = True
        case "offline":
            machine.silent = machine.said_offline = True
    machine.row = None
    if loss.returns:
        world.later(loss.returns, lambda: come_back(world, machine, loss))


def come_back(world: "World", machine: Machine, loss: Loss) -> None:
    """An outbid machine is resumed by the market, a silent one was never dead."""
    if machine.power is Power.GONE:
        return
    if machine.power is Power.STOPPED and loss.mode == "outbid":
        world.tell("market", f"{machine.label} is resumed by the market")
        power_on(machine, world.now, world.now + 30)
    else:
        machine.silent = machine.said_offline = False
        machine.row, machine.well_since = None, world.now


def _cloud(name: str) -> str:
    return {"vast": "market", "gce": "project"}[name]


def _on(value: Any) -> Callable[[Fault], Any]:
    return lambda _: value


def _share(most: float) -> Callable[[Fault], float]:
    return lambda fault: most * (0.2 + 0.8 * fault.share)


WORKSPACES = ("one", "two", "three")

KINDS: dict[str, Kind] = {
    "process.kill": Kind(8, (0, 0), _kill, targets=PROCESSES),
    "process.pause": Kind(4, (20, 900), _pause, _resume, targets=PROCESSES),
    "log.silent": Kind(2, (10, 90), *_log("silent", _on(True), False)),
    "log.slow": Kind(2, (60, 300), *_log("slow", _share(4.0), 0.0)),
    "log.answers-lost": Kind(3, (60, 600), *_log("answers_lost", _share(0.5), 0.0)),
    "bus.down": Kind(2, (20, 180), _bus_down, _bus_up),
    "bus.wiped": Kind(1, (0, 0), _bus_wiped),
    "bus.acks-lost": Kind(2, (60, 900), *moody("server", "acks_lost", _share(0.5))),
    "bus.publishes-lost": Kind(2, (60, 900), *moody("server", "lost", _share(0.5))),
    "bus.twice": Kind(2, (60, 900), *moody("server", "twice", _share(0.7))),
    "bus.forgetful": Kind(2, (60, 900), *moody("server", "forgotten", _on(1.0))),
    "bus.late": Kind(2, (60, 900), *moody("server", "late", _share(120.0))),
    "bus.blind-watch": Kind(2, (60, 900), *moody("server", "blind", _on(True))),
    "bus.garbage": Kind(1, (0, 0), _garbage),
    "bus.replay": Kind(2, (0, 0), _replayed),
    "bus.forged-alarm": Kind(2, (0, 0), _forged, targets=WORKSPACES),
    "network.deaf": Kind(2, (30, 900), _deaf, _heard),
    "endpoint.down": Kind(2, (5, 120), _endpoint_down, _endpoint_up),
    "notices.lost": Kind(1, (60, 900), _nobody_told, _told_again),
    "transfers.break": Kind(2, (60, 900), *moody("grounds", "passes_fail", _share(0.7))),
    "transfers.slow": Kind(2, (60, 900), *moody("grounds", "slow", _share(5.0))),
    "standby.preempted": Kind(1, (0, 0), _preempted, targets=WORKSPACES),
    "standby.gone": Kind(0.5, (0, 0), _standby_gone, targets=WORKSPACES),
    "standby.silent": Kind(1, (30, 600), *_silent(_standby), targets=WORKSPACES),
    "gpu.cut-off": Kind(1, (20, 600), *_flag(_gpu, "cut_off"), targets=WORKSPACES),
    "gpu.said-offline": Kind(1, (20, 600), *_flag(_gpu, "said_offline"), targets=WORKSPACES),
    "candidate.dies": Kind(4, (0, 0), _candidate_dies, targets=WORKSPACES),
    "people.failover": Kind(1, (0, 0), _asked("failover"), targets=WORKSPACES),
    "people.go-back": Kind(1, (0, 0), _go_back, targets=WORKSPACES),
    "people.pause": Kind(1, (60, 600), _asked("pause"), _asked("resume"), targets=WORKSPACES),
    **{
        f"{cloud}.{name.replace('_', '-')}": Kind(weight, seconds, *moody(_cloud(cloud), name, bad))
        for cloud, name, weight, seconds, bad in (
            ("vast", "silent", 1, (20, 300), _on(True)),
            ("vast", "answers_lost", 2, (300, 1800), _share(0.6)),
            ("vast", "calls_lost", 2, (300, 1800), _share(0.5)),
            ("vast", "fails", 2, (60, 900), _share(0.5)),
            ("vast", "lists_empty", 2, (60, 600), _on(True)),
            ("vast", "hides_new", 2, (300, 1800), _share(25.0)),
            ("vast", "offers_gone", 2, (300, 1800), _share(0.9)),
            ("vast", "leaves_behind", 2, (300, 1800), _share(0.7)),
            ("vast", "unsuitable", 2, (300, 1800), _share(0.7)),
            ("vast", "never_boots", 2, (300, 1800), _share(0.6)),
            ("vast", "destroy_lies", 2, (300, 1800), _share(0.9)),
            ("vast", "sold_out", 1, (120, 1200), _on(True)),
            ("vast", "refuses_key", 0.3, (60, 300), _on(True)),
            ("gce", "silent", 1, (20, 300), _on(True)),
            ("gce", "answers_lost", 1, (300, 1800), _share(0.6)),
            ("gce", "fails", 1, (60, 900), _share(0.5)),
            ("gce", "lists_empty", 1, (60, 600), _on(True)),
            ("gce", "sold_out", 1, (60, 600), _on(True)),
        )
    },
}

LOSSES = ("outbid", "gone", "silent", "offline")


def planned(
    chance: Random, hours: float, *, a_hour: float = 15.0, only: tuple[str, ...] = ()
) -> list[Fault]:
    """The faults of a run, in the order of their time; ``only`` of these kinds if any is named."""
    names = [name for name in KINDS if not only or name in only]
    weights = [KINDS[name].weight for name in names]
    faults = []
    for _ in range(int(hours * a_hour)):
        name = chance.choices(names, weights)[0]
        kind = KINDS[name]
        shortest, longest = kind.seconds
        faults.append(
            Fault(
                at=round(chance.random() * hours * 3600, 1),
                kind=name,
                target=chance.choice(kind.targets),
                seconds=round(shortest + chance.random() ** 2 * (longest - shortest), 1),
                share=int(chance.random() * 1000) / 1000,
            )
        )
    return sorted(faults, key=lambda fault: (fault.at, fault.kind, fault.target))


def losses(chance: Random) -> Iterator[Loss]:
    """How a workspace loses one GPU after the other."""
    while True:
        mode = chance.choice(LOSSES)
        # A host that its provider has lost comes back one day: until then nobody sees its end.
        returns = chance.random() < 0.4 or mode == "offline"
        yield Loss(
            gap=60 + chance.random() * 3000,
            mode=mode,
            returns=60 + chance.random() ** 2 * 3600 if returns else 0.0,
        )


def begin(world: "World", fault: Fault) -> None:
    """Do it, and undo it in time."""
    world.tell("fault", str(fault))
    world.meet(f"fault: {fault.kind}")
    KINDS[fault.kind].begin(world, fault)
    if fault.seconds:
        world.active.append(fault)
        world.later(fault.seconds, lambda: finish(world, fault))


def finish(world: "World", fault: Fault) -> None:
    if fault in world.active:
        world.active.remove(fault)
        world.tell("fault", f"{fault.kind} {fault.target} is over")
        KINDS[fault.kind].end(world, fault)
