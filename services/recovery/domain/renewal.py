"""What a host in service would otherwise outlive is renewed in time: its host certificate.

When it is due is in the state as an absolute time, so no restart forgets it, and a renewal that
fails is an effect that fails: told, and tried on. A machine that was given up is never renewed.
"""

from collections.abc import Iterator
from datetime import datetime

from services.recovery.domain.state import Phase, Renewal, State
from shared.changing import replace
from shared.events import Event
from shared.events.recovery import RenewalDue
from shared.machines import Host, MachineId, Role

CALM = {
    Role.GPU: {Phase.SEEDING, Phase.SYNCING},
    # A standby may serve for weeks; only a freeze must not be disturbed.
    Role.STANDBY: {
        Phase.SEEDING,
        Phase.SYNCING,
        Phase.ON_STANDBY,
        Phase.RECOVERING,
        Phase.HALTED,
    },
}


def in_service(state: State) -> Iterator[tuple[Host, Role]]:
    """The hosts that may be renewed now, each in its role."""
    standby, primary = state.standby, state.primary
    if standby.host is not None and not standby.lost and state.phase in CALM[Role.STANDBY]:
        yield standby.host, Role.STANDBY
    if primary is not None and state.primary_ready and state.phase in CALM[Role.GPU]:
        yield primary, Role.GPU


def next_due(state: State, now: datetime) -> tuple[Event, ...]:
    """The first host whose certificate is to be renewed now."""
    for host, role in in_service(state):
        renewal = _of(state, host.id)
        if not renewal.owed and (renewal.at is None or now >= renewal.at):
            return (
                RenewalDue(
                    workspace=state.workspace, epoch=state.epoch, machine=host.id, role=role
                ),
            )
    return ()


def owed(state: State) -> Iterator[tuple[Host, Role]]:
    """The hosts whose renewal is owed."""
    return ((host, role) for host, role in in_service(state) if _of(state, host.id).owed)


def scheduled(
    state: State, machine: MachineId, at: datetime | None, *, owed: bool = False
) -> State:
    """``machine`` was certified until well after ``at``, or is ``owed`` its renewal now."""
    hosts = (state.standby.host, state.primary, state.attempt.host)
    kept = {host.id for host in hosts if host is not None} - {machine}
    others = (renewal for renewal in state.renewals if renewal.machine in kept)
    return replace(state, renewals=(*others, Renewal(machine=machine, at=at, owed=owed)))


def _of(state: State, machine: MachineId) -> Renewal:
    """A host whose certificate nobody scheduled is due at once."""
    for renewal in state.renewals:
        if renewal.machine == machine:
            return renewal
    return Renewal(machine=machine, at=None)
