"""What must hold, whatever happens; judged from outside, at each append and each effect.

The oracle sees what no service sees: which machine really lives, what is on each disk, and what
people were told is kept. It shares the pure folds with the product and nothing else.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from lab.hosts import Witness
from lab.machines import Content, Disk, Fleet, Generation, Machine, Power
from lab.services import INSTALLATION
from services.api.domain import projections
from services.api.domain.views import WorkspaceView
from services.recovery.domain.evolution import evolve
from services.recovery.domain.labels import workspace_of
from services.recovery.domain.state import Phase, State
from services.recovery.ports import Backend
from shared.envelope import Envelope
from shared.events.recovery import (
    FailbackCompleted,
    FailoverCompleted,
    FailoverStarted,
    ProvisionFailed,
    ProvisionRequested,
    RecoveryHalted,
)
from shared.machines import MachineId, Role, WorkspaceName

GPUS_MAX = 2
"""One old and one candidate: a third is never asked for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise: when (seconds), which, and how."""

    at: float
    promise: str
    what: str


@dataclass(frozen=True, slots=True)
class Moment:
    """A workspace after one of its events, and when that was appended, in seconds."""

    at: float
    position: int
    state: State
    view: WorkspaceView | None


@dataclass(slots=True)
class Book:
    """What the oracle knows of one workspace, folded from the log. ``past``: after each event."""

    state: State
    view: WorkspaceView | None = None
    past: list[Moment] = field(default_factory=list)
    primaries: dict[int, MachineId] = field(default_factory=dict)
    durable: set[int] = field(default_factory=set)
    """What people wrote and may rely on: on the serving standby at once, on a GPU once sealed."""
    losses_excused: bool = False
    failovers: int = 0
    halts: int = 0


class Oracle:
    """``fleet`` is the truth about machines, ``now`` the time in seconds."""

    def __init__(self, fleet: Fleet, now: Callable[[], float]) -> None:
        self.findings: list[Finding] = []
        self.met: Counter[str] = Counter()
        self.books: dict[WorkspaceName, Book] = {}
        self.kept: dict[UUID, str] = {}
        self.recorded: set[UUID] = set()
        self.deaf_changed_at = -1e9
        self._fleet = fleet
        self._now = now
        self._intended: set[str] = set()
        self._inventory: dict[str, list[str]] = {}
        self._head = 0

    def broken(self, promise: str, what: str) -> None:
        """Note a finding; the first of each kind is enough."""
        if all(finding.promise != promise for finding in self.findings):
            self.findings.append(Finding(self._now(), promise, what))

    def demand(self, holds: bool, promise: str, what: object) -> None:
        """``what`` is put into words only when the promise is broken."""
        self.met[f"checked: {promise}"] += 1
        if not holds:
            self.broken(promise, str(what))

    def book(self, workspace: WorkspaceName) -> Book:
        if workspace not in self.books:
            self.books[workspace] = Book(State(workspace=workspace))
        return self.books[workspace]

    # --- the log

    def appended(self, who: str, envelopes: Sequence[Envelope]) -> None:
        """Each append, before anybody hears of it."""
        for envelope in envelopes:
            self._head += 1
            self.demand(envelope.position == self._head, "the log has no gaps", envelope.position)
            self.demand(
                envelope.id not in self.recorded, "each fact is in the log once", envelope.id
            )
            self.recorded.add(envelope.id)
            self._take(envelope)

    def _take(self, envelope: Envelope) -> None:
        event = envelope.event
        book = self.book(event.workspace)
        before = book.state
        book.state = after = evolve(before, event)
        book.view = projections.evolve(book.view, envelope)
        book.past.append(Moment(self._now(), self._head, after, book.view))
        name = event.type
        if isinstance(event, ProvisionFailed):
            name = f"{name} {event.role} {event.stage}"
        self.met[f"event: {name}"] += 1
        self.demand(after.epoch >= before.epoch, "epochs only grow", event)
        self._agree(book, event.type)
        match event:
            case ProvisionRequested():
                self._intended.add(event.label)
            case FailoverStarted() if after.epoch > before.epoch:
                self._judge_failover(before, event)
                book.losses_excused |= bool(event.generation)  # asked for by people
            case FailoverCompleted() if before.phase is Phase.FAILING_OVER:
                book.failovers += 1
                self._primary(book, event.epoch, event.standby)
            case FailbackCompleted() if after.serving != before.serving:
                self._primary(book, event.epoch, event.machine)
                self._judge_failback(book, event.machine)
            case RecoveryHalted() if after.phase is Phase.HALTED:
                book.halts += before.phase is not Phase.HALTED
                self.demand(bool(event.reason and event.hint), "a halt says why", event)

    def _agree(self, book: Book, what: str) -> None:
        view, state = book.view, book.state
        if view is None:
            return
        agree = view.phase.value == state.phase.value and view.epoch == state.epoch
        self.demand(
            agree,
            "the api's fold agrees with recovery's",
            f"after {what}: {view.phase} e{view.epoch}, {state.phase} e{state.epoch}",
        )

    def _primary(self, book: Book, epoch: int, machine: MachineId) -> None:
        holder = book.primaries.setdefault(epoch, machine)
        self.demand(
            holder == machine,
            "one primary an epoch",
            f"{book.state.workspace} e{epoch}: {holder} and {machine}",
        )

    def _judge_failover(self, before: State, event: FailoverStarted) -> None:
        """Nobody fails over from a GPU that lived through the whole window."""
        if event.actor != "recovery" or before.phase is not Phase.SYNCING:
            return
        host = before.primary
        machine = self._fleet.of(host) if host else None
        policy, now = before.policy, self._now()
        window = (policy.failover_threshold + 2) * policy.health_interval + 60
        lived = machine is not None and machine.well(now) and now - machine.well_since > window
        lived = lived and now - self.deaf_changed_at > 60
        self.demand(not lived, "no failover from a healthy GPU", event)

    def _judge_failback(self, book: Book, label: MachineId) -> None:
        host = book.state.primary
        machine = self._fleet.of(host) if host else None
        tree = machine.disk.tree if machine else None
        if tree is None:
            self.demand(False, "a primary has its data", f"{label} has no tree")
            return
        self._nothing_lost(book, tree, f"failback to {label}")
        book.losses_excused = False

    def _nothing_lost(self, book: Book, content: Content, where: str) -> None:
        missing = book.durable.difference(content.writes())
        if missing and book.losses_excused:
            book.durable.intersection_update(content.writes())
            self.met["data: lost with the standby's disk"] += 1
            return
        self.demand(
            not missing,
            "no write that was promised is lost",
            f"{book.state.workspace} at {where}: {sorted(missing)[:5]} are missing",
        )

    def disk_lost(self, workspace: WorkspaceName) -> None:
        """The standby's disk is gone: what was on it alone may be missing at the next switch."""
        self.book(workspace).losses_excused = True

    # --- who folds the log

    def replica(self, name: str, workspace: WorkspaceName, state: State, version: int) -> None:
        """What a replica of recovery holds of a workspace, which is its own fold."""
        past = self.book(workspace).past
        self.demand(
            0 < version <= len(past) and state == past[version - 1].state,
            "recovery's state is the fold of the log",
            f"{workspace} at {version} in {name}",
        )

    def reader(self, workspace: WorkspaceName, view: WorkspaceView | None, position: int) -> None:
        """What the api holds of a workspace, having read the log up to ``position``."""
        past = self.book(workspace).past
        seen = bisect_right(past, position, key=lambda moment: moment.position)
        self.demand(
            view == (past[seen - 1].view if seen else None),
            "the api's state is the fold of the log",
            f"{workspace} at {position}",
        )

    def up_to_date(self, who: str, workspace: WorkspaceName, position: int, within: float) -> None:
        """What ``who`` has not read yet beyond ``position`` is younger than so many seconds."""
        past = self.book(workspace).past
        unread = bisect_right(past, position, key=lambda moment: moment.position)
        self.demand(
            unread == len(past) or self._now() - past[unread].at <= within,
            "what is in the log is soon known",
            f"{who} has read {workspace} up to {position}",
        )

    # --- machines

    def creating(self, cloud: str, label: str, who: str) -> None:
        """Recovery asks for a machine."""
        self.demand(label in self._intended, "an effect has an intent", f"create {label}")
        workspace = workspace_of(label, INSTALLATION)
        gpus = [
            seen
            for seen in self._inventory.get(f"{who} {cloud}", ())
            if cloud == "vast" and workspace_of(seen, INSTALLATION) == workspace
        ]
        self.demand(
            len(gpus) < GPUS_MAX,
            "no create while the inventory shows enough",
            f"{who} creates {label} and knows of {gpus}",
        )

    def listed(self, cloud: str, machines: Sequence[Machine], who: str) -> None:
        running = [m.label for m in machines if m.power is Power.ON]
        self._inventory[f"{who} {cloud}"] = running

    def gone(self, machine: Machine, who: str) -> None:
        """The cloud says by name that it has no such machine, whatever its last list said."""
        known = self._inventory.get(f"{who} {machine.provider}", [])
        if machine.label in known:
            known.remove(machine.label)

    def ending(self, how: str, machine: Machine) -> None:
        """A machine is stopped or destroyed for us."""
        workspace = workspace_of(machine.label, INSTALLATION)
        if workspace is None or workspace not in self.books:
            return
        state = self.books[workspace].state
        # A standby that was given up for lost may be given a new start.
        standby = None if state.standby.lost else state.standby.host
        in_service = [h for h in (state.primary, standby) if h is not None]
        needed = state.phase is not Phase.REMOVED and any(
            (host.provider, host.provider_id) == (machine.provider, machine.provider_id)
            for host in in_service
        )
        self.demand(not needed, "no machine in service is ended", f"{how} {machine.label}")

    def pointed(self, port: int, backend: Backend | None) -> None:
        """The endpoint leads elsewhere."""
        if backend is None:
            return
        machine = self._fleet.by_address.get(backend.address)
        for book in self.books.values():
            state = book.state
            if state.endpoint_port != port or machine is None:
                continue
            condemned = any(c.provider_id == machine.provider_id for c in state.condemned)
            self.demand(
                not condemned, "the endpoint leads to no fenced machine", f"{machine.label}"
            )

    # --- data

    def witness(self) -> Witness:
        return Witness(
            wrote=self._wrote,
            sealed=self._sealed,
            served=self._served,
            met=self.meet,
        )

    def meet(self, what: str) -> None:
        self.met[what] += 1

    def _wrote(self, what: str, epoch: int, current: int, disk: Disk) -> None:
        self.demand(
            epoch >= current,
            "a lower epoch never writes",
            f"{what} under epoch {epoch} on {disk.machine}, which is at {current}",
        )

    def _sealed(self, disk: Disk, generation: Generation) -> None:
        if disk.workspace is None:
            return
        durable = self.book(disk.workspace).durable
        for write in generation.content.writes():
            if write in durable:
                break
            durable.add(write)

    def _served(self, disk: Disk, generation: Generation | None, content: Content) -> None:
        if disk.workspace is None:
            return
        newest = disk.newest()
        good = generation is newest and (generation is None or generation.sealed)
        self.demand(
            good,
            "what is promoted is sealed and the newest",
            f"{generation.id if generation else None} of {disk.machine}",
        )
        self._nothing_lost(self.book(disk.workspace), content, f"promotion on {disk.machine}")

    def written(self, workspace: WorkspaceName, write: int, role: Role) -> None:
        """Somebody was told that this is on disk; on the standby that is a promise."""
        self.met[f"people: wrote on the {role}"] += 1
        if role is Role.STANDBY:
            self.book(workspace).durable.add(write)
