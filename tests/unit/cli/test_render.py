"""Tables for people, from the very JSON that the api computes."""

from datetime import UTC, datetime, timedelta

import pytest

from cli import render, text
from cli.messages import printable
from services.api.domain.presentation import as_json
from services.api.domain.projections import fold
from shared.clock import new_id
from shared.envelope import Envelope
from shared.events.base import Event
from shared.events.recovery import StandbyProvisioned, WorkspaceRegistered
from shared.events.sync import SyncCompleted
from shared.machines import Host, MachineId, WorkspaceName
from shared.policy import Policy

WS = WorkspaceName("train")
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def state(*events: Event) -> dict[str, object]:
    envelopes = [
        Envelope(id=new_id(), source="recovery", time=NOW, event=event, position=n)
        for n, event in enumerate(events, start=1)
    ]
    view = fold(envelopes)
    assert view is not None
    return as_json(view, NOW + timedelta(seconds=90), endpoint_host="127.0.0.1")


REGISTERED = WorkspaceRegistered(
    workspace=WS, epoch=0, path="/workspace", origin="uploaded", policy=Policy(), endpoint_port=2000
)
STANDBY = StandbyProvisioned(
    workspace=WS,
    epoch=0,
    attempt=1,
    host=Host(id=MachineId("sb"), provider="gce", provider_id="sb-1", address="10.0.0.1", port=22),
)
SEALED = SyncCompleted(
    workspace=WS,
    epoch=0,
    generation="e000000-00000001",
    sequence=1,
    source=MachineId("sb"),
    files=3,
    bytes=1_500_000,
    bytes_changed=10,
    manifest_sha256="0" * 64,
    seconds=0.1,
    completed_at=NOW,
    taken_at=NOW,
)


def test_a_newborn_workspace_has_a_row_without_gaps() -> None:
    (row,) = render.status_rows([state(REGISTERED)], NOW)
    assert len(row) == len(render.STATUS_HEADERS)
    assert row[:4] == ("train", "ON_STANDBY: provisioning standby", "0", "127.0.0.1:2000")
    assert row[7] == "never"


def test_the_advice_of_the_api_stands_below_the_table() -> None:
    lines = render.remarks(state(REGISTERED, STANDBY))
    assert any("dumont workspace add train --from DIR" in line for line in lines)


def test_everything_about_a_workspace_is_named() -> None:
    facts = dict(render.facts(state(REGISTERED, STANDBY, SEALED), NOW + timedelta(seconds=90)))
    assert facts["generation"] == "e000000-00000001, 3 files, 1.5 MB"
    assert facts["last sync"] == "1m 30s ago"
    assert facts["standby"].startswith("gce:sb-1, serving, 10.0.0.1:22")
    assert "sync_interval=30.0" in facts["policy"]


def test_an_event_is_one_row_with_its_own_fields() -> None:
    event = {
        "position": 7,
        "time": NOW.isoformat(),
        "subject": "train",
        "epoch": 2,
        "type": "dumont.SyncFailed.v1",
        "data": {"workspace": "train", "epoch": 2, "reason": "x" * 100},
    }
    (row,) = render.event_rows([event])
    assert row[0] == "7"
    assert row[4] == "SyncFailed"
    assert row[5].startswith("reason=xxx")
    assert len(row[5]) < 80


def test_what_a_host_says_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07") == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (75, "1m 15s"),
        (3600, "1h 0m"),
        (200_000, "2d 7h"),
    ],
)
def test_durations_have_two_units(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2_000_000_000_000, "2.0 TB")],
)
def test_sizes_are_decimal(count: float | None, shown: str) -> None:
    assert text.size(count) == shown
