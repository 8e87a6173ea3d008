"""Which machines cost money: folded from every event, whatever its epoch.

An answer that came too late to matter for the state may still tell of a machine that is billed.
"""

from collections.abc import Mapping
from datetime import datetime

from services.api.domain.views import BilledMachine, Billing, WorkspaceView
from shared.changing import replace
from shared.envelope import Envelope
from shared.events.recovery import (
    FenceDelayed,
    GpuProvisioned,
    OrphanDestroyed,
    PrimaryFenced,
    ProvisionRequested,
    StandbyLost,
    StandbyProvisioned,
    StandbyRestored,
    ZombieSeen,
)
from shared.machines import Host, MachineId, Role

Billed = Mapping[MachineId, BilledMachine]


def evolve(billed: Billed, envelope: Envelope) -> Billed:
    """The billed machines after one more event; a host reached by ``ssh`` alone is never one."""
    match envelope.event:
        case ProvisionRequested() as event:
            return _requested(billed, event, envelope.time)
        case GpuProvisioned(host=host, attempt=attempt):
            return rented(billed, host, Role.GPU, attempt, envelope.time)
        case StandbyProvisioned(host=host, attempt=attempt):
            return rented(billed, host, Role.STANDBY, attempt, envelope.time)
        case StandbyLost(machine=machine, gone=True):
            return without(billed, machine)
        case StandbyRestored(host=host):
            return rented(billed, host, Role.STANDBY, 0, envelope.time)
        case PrimaryFenced(how="stopped", machine=machine) | FenceDelayed(machine=machine):
            return marked(billed, machine, Billing.STOPPED)
        case PrimaryFenced(machine=machine) | OrphanDestroyed(machine=machine):
            return without(billed, machine)
        case ZombieSeen() as event:
            return _zombie(billed, event, envelope.time)
        case _:
            return billed


def doubled(view: WorkspaceView, at: datetime) -> WorkspaceView:
    """The same with its count of double billing, as it stands at ``at``.

    What the log knows bounds it: a GPU counts from the answer to its rental until it was seen
    stopped or gone. A stopped one bills its disk alone, and does not count.
    """
    gpus = sum(_runs(machine) for machine in view.billed.values())
    since = view.double_billed_since
    if gpus > 1:
        return view if since else replace(view, double_billed_since=at)
    if since is None:
        return view
    seconds = view.double_billed_seconds + max(0.0, (at - since).total_seconds())
    return replace(view, double_billed_seconds=seconds, double_billed_since=None)


def _runs(machine: BilledMachine) -> bool:
    """Whether the log knows of a GPU that it exists and was not seen stopped."""
    known = machine.billing in {Billing.RUNNING, Billing.ENDING} and bool(machine.provider_id)
    return machine.role is Role.GPU and known and not machine.stopped


def rented(billed: Billed, host: Host, role: Role, attempt: int, at: datetime) -> Billed:
    """``host`` is paid for. One whose end was decided before we heard of it is still to end."""
    if host.provider == "ssh":
        return without(billed, host.id)
    asked = billed.get(host.id)
    ending = asked is not None and asked.billing is Billing.ENDING and role is Role.GPU
    machine = BilledMachine(
        id=host.id,
        role=role,
        billing=Billing.ENDING if ending else Billing.RUNNING,
        since=asked.since if asked else at,
        attempt=asked.attempt if asked else attempt,
        provider=host.provider,
        provider_id=host.provider_id,
        price_per_hour=host.price_per_hour,
    )
    return {**billed, host.id: machine}


def marked(billed: Billed, machine: MachineId | None, billing: Billing) -> Billed:
    """The same, with one machine known to be in another state."""
    if machine is None or machine not in billed:
        return billed
    stopped = billed[machine].stopped or billing is Billing.STOPPED
    return {**billed, machine: replace(billed[machine], billing=billing, stopped=stopped)}


def without(billed: Billed, machine: MachineId | None) -> Billed:
    """The same without one machine."""
    return {key: value for key, value in billed.items() if key != machine}


def _requested(billed: Billed, event: ProvisionRequested, at: datetime) -> Billed:
    if event.label in billed:
        return billed
    machine = BilledMachine(
        id=event.label,
        role=event.role,
        billing=Billing.REQUESTED,
        since=at,
        attempt=event.attempt,
        price_per_hour=event.bid,
    )
    return {**billed, event.label: machine}


def _zombie(billed: Billed, event: ZombieSeen, at: datetime) -> Billed:
    known = billed.get(event.machine)
    machine = BilledMachine(
        id=event.machine,
        role=known.role if known else Role.GPU,
        billing=Billing.ENDING,
        since=known.since if known else at,
        attempt=known.attempt if known else 0,
        provider=event.provider,
        provider_id=event.provider_id,
        price_per_hour=known.price_per_hour if known else 0.0,
    )
    return {**billed, event.machine: machine}
