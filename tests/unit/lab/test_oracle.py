"""The oracle sees what must not be: each promise is broken here by hand."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from lab.machines import EMPTY, Content, Disk, Fleet, Generation, Live, Machine, Power
from lab.oracle import Oracle
from services.recovery.domain.state import Phase
from services.recovery.ports import Backend
from shared.envelope import Envelope
from shared.events import Event
from shared.events.recovery import FailoverStarted, RecoveryStarted, WorkspaceRegistered
from shared.machines import Host, MachineId, Role, WorkspaceName
from shared.policy import Policy

WS = WorkspaceName("one")
GPU = Host(
    id=MachineId("lab-one-e0-a1"), provider="vast", provider_id="101", address="10.4.0.1", port=22
)


def machine() -> Machine:
    return Machine(
        provider="vast",
        provider_id="101",
        label=str(GPU.id),
        address=GPU.address,
        port=22,
        created_at=0.0,
        boots_at=0.0,
    )


def world() -> tuple[Oracle, Fleet]:
    """A workspace that is protected on a GPU which has been well for a day."""
    fleet = Fleet()
    fleet.add(machine())
    oracle = Oracle(fleet, lambda: 86_400.0)
    book = oracle.book(WS)
    book.state = replace(
        book.state, phase=Phase.SYNCING, primary=GPU, primary_ready=True, endpoint_port=20_000
    )
    return oracle, fleet


def said(number: int, event: Event, *, position: int | None = None) -> Envelope:
    return Envelope(
        id=UUID(int=number),
        source="recovery",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        event=event,
        position=position if position is not None else number,
    )


REGISTERED = WorkspaceRegistered(
    workspace=WS, epoch=0, path="/data", origin="empty", policy=Policy(), endpoint_port=20_000
)
STARTED = RecoveryStarted(workspace=WS, epoch=0, reason="first")
LOST = FailoverStarted(workspace=WS, epoch=1, machine=GPU.id, reason="silent")


def disk() -> Disk:
    return Disk(workspace=WS, role=Role.STANDBY.value, machine="lab-one-standby-1", epoch=2)


def failover(oracle: Oracle, _: Fleet) -> None:
    oracle.appended("recovery-1", [said(1, LOST)])


def gap(oracle: Oracle, _: Fleet) -> None:
    oracle.appended("recovery-1", [said(1, STARTED), said(2, STARTED, position=3)])


def twice(oracle: Oracle, _: Fleet) -> None:
    oracle.appended("recovery-1", [said(1, STARTED), said(1, STARTED, position=2)])


def unintended(oracle: Oracle, _: Fleet) -> None:
    oracle.creating("vast", "lab-one-e0-a7", "recovery-1")


def third(oracle: Oracle, _: Fleet) -> None:
    seen = [replace(machine(), provider_id=str(n), label=f"lab-one-e0-a{n}") for n in (1, 2)]
    oracle.listed("vast", seen, "recovery-1")
    oracle.creating("vast", "lab-one-e0-a3", "recovery-1")


def ended(oracle: Oracle, fleet: Fleet) -> None:
    oracle.ending("destroy", fleet.by_id["vast", "101"])


def lower_epoch(oracle: Oracle, _: Fleet) -> None:
    oracle.witness().wrote("seal", 1, 2, disk())


def older(oracle: Oracle, _: Fleet) -> None:
    kept = disk()
    kept.generations = [Generation(1, n, EMPTY, "gpu", 0.0) for n in (1, 2)]
    oracle.witness().served(kept, kept.generations[0], EMPTY)


def unsealed(oracle: Oracle, _: Fleet) -> None:
    kept = disk()
    kept.generations = [Generation(1, 1, EMPTY, "gpu", 0.0, sealed=False)]
    oracle.witness().served(kept, kept.generations[0], EMPTY)


def lost_write(oracle: Oracle, _: Fleet) -> None:
    oracle.written(WS, 7, Role.STANDBY)
    oracle.witness().served(disk(), None, Content(8, EMPTY))


def fenced(oracle: Oracle, fleet: Fleet) -> None:
    oracle.appended("recovery-1", [said(1, LOST)])
    oracle.findings.clear()
    oracle.pointed(20_000, Backend(address=GPU.address, port=22))


def misfolded(oracle: Oracle, _: Fleet) -> None:
    oracle.appended("recovery-1", [said(1, STARTED)])
    oracle.replica("recovery-1", WS, replace(oracle.book(WS).state, paused=True), version=1)


def unheard_of(oracle: Oracle, _: Fleet) -> None:
    """A replica that has folded more than there is."""
    oracle.appended("recovery-1", [said(1, STARTED)])
    oracle.replica("recovery-1", WS, oracle.book(WS).state, version=2)


def misread(oracle: Oracle, _: Fleet) -> None:
    oracle.appended("recovery-1", [said(1, REGISTERED)])
    oracle.reader(WS, None, position=1)


def left_behind(oracle: Oracle, _: Fleet) -> None:
    oracle.appended("recovery-1", [said(1, STARTED), said(2, STARTED)])
    oracle.book(WS).past[1] = replace(oracle.book(WS).past[1], at=86_000.0)
    oracle.up_to_date("recovery-1", WS, 1, within=5.0)


@pytest.mark.parametrize(
    ("breaks", "promise"),
    [
        (failover, "no failover from a healthy GPU"),
        (gap, "the log has no gaps"),
        (twice, "each fact is in the log once"),
        (unintended, "an effect has an intent"),
        (third, "no create while the inventory shows enough"),
        (ended, "no machine in service is ended"),
        (lower_epoch, "a lower epoch never writes"),
        (older, "what is promoted is sealed and the newest"),
        (unsealed, "what is promoted is sealed and the newest"),
        (lost_write, "no write that was promised is lost"),
        (fenced, "the endpoint leads to no fenced machine"),
        (misfolded, "recovery's state is the fold of the log"),
        (unheard_of, "recovery's state is the fold of the log"),
        (misread, "the api's state is the fold of the log"),
        (left_behind, "what is in the log is soon known"),
    ],
)
def test_what_breaks_a_promise_is_found(
    breaks: Callable[[Oracle, Fleet], None], promise: str
) -> None:
    oracle, fleet = world()
    breaks(oracle, fleet)
    assert promise in {finding.promise for finding in oracle.findings}


def test_an_append_that_is_under_way_is_nobodys_fault() -> None:
    oracle, _ = world()
    oracle.appended("recovery-1", [said(1, STARTED)])
    before = oracle.book(WS).state
    oracle.appended("recovery-1", [said(2, LOST)])
    oracle.findings.clear()
    oracle.replica("recovery-1", WS, before, version=1)
    oracle.up_to_date("recovery-1", WS, 1, within=5.0)
    assert oracle.findings == []


def test_a_failover_from_a_gpu_that_is_dead_is_right() -> None:
    oracle, fleet = world()
    fleet.by_id["vast", "101"].power = Power.STOPPED
    oracle.appended("recovery-1", [said(1, LOST)])
    assert oracle.findings == []


def test_a_machine_that_its_cloud_says_is_gone_is_no_machine_too_many() -> None:
    oracle, _ = world()
    seen = [replace(machine(), provider_id=str(n), label=f"lab-one-e0-a{n}") for n in (1, 2)]
    oracle.listed("vast", seen, "recovery-1")
    oracle.gone(seen[0], "recovery-1")
    oracle.creating("vast", "lab-one-e0-a3", "recovery-1")
    assert not any(finding.promise.startswith("no create") for finding in oracle.findings)


def test_writes_that_went_down_with_the_standbys_disk_are_excused_once() -> None:
    oracle, _ = world()
    oracle.written(WS, 7, Role.STANDBY)
    oracle.disk_lost(WS)
    kept = disk()
    kept.live = Live(EMPTY, 2)
    oracle.witness().served(kept, None, EMPTY)
    assert oracle.findings == []
    assert oracle.met["data: lost with the standby's disk"] == 1
