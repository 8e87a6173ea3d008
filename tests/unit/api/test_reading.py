"""What clients read over HTTP."""

import pytest

from services.api.domain import board
from services.api.schemas import EventsShown
from shared.events.recovery import FailoverCompleted, OrphanDestroyed, WorkspaceRemoved
from shared.machines import WorkspaceName
from tests.unit.api.conftest import Stage
from tests.unit.api.tale import STANDBY, Tale, gpu

pytestmark = pytest.mark.anyio


async def test_the_state_of_a_workspace_holds_all_that_the_contract_names(stage: Stage) -> None:
    await stage.told(Tale().protected())
    state = (await stage.http.get("/v1/workspaces/train")).json()
    assert state["phase"] == "SYNCING"
    assert state["epoch"] == 1
    assert (state["endpoint"]["host"], state["endpoint"]["port"]) == ("ssh.example", 20000)
    assert state["primary"]["id"] == gpu().id
    assert state["standby"]["provider"] == "gce"
    assert state["sync_count"] == 2
    assert state["last_generation"]["files"] == 2004
    assert state["lag"]["seconds"] > 0
    assert state["degraded"] is False
    assert [m["billing"] for m in state["billed"]] == ["running", "running"]


async def test_all_workspaces_are_listed_by_name(stage: Stage) -> None:
    await stage.told(Tale().registered())
    await stage.told(Tale(WorkspaceName("art")).registered())
    listed = (await stage.http.get("/v1/workspaces")).json()["workspaces"]
    assert [state["name"] for state in listed] == ["art", "train"]


async def test_a_removed_workspace_is_listed_until_its_machines_are_gone(stage: Stage) -> None:
    tale = Tale().registered().standby_up()
    tale.tell(WorkspaceRemoved)
    await stage.told(tale)
    listed = (await stage.http.get("/v1/workspaces")).json()["workspaces"]
    assert [state["phase"] for state in listed] == ["REMOVED"]
    tale.tell(OrphanDestroyed, machine=STANDBY.id)
    await stage.told(tale)
    assert (await stage.http.get("/v1/workspaces")).json()["workspaces"] == []
    assert (await stage.http.get("/v1/workspaces/train")).json()["phase"] == "REMOVED"


async def test_an_unknown_workspace_is_a_problem_that_names_the_near_ones(stage: Stage) -> None:
    await stage.told(Tale().registered())
    answer = await stage.http.get("/v1/workspaces/trian")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "urn:dumont:problem:unknown-workspace"
    assert problem["near"] == ["train"]
    assert problem["hint"] == "did you mean train?"


async def test_the_timeline_tells_every_event_in_a_sentence(stage: Stage) -> None:
    await stage.told(Tale().protected().lost())
    entries = (await stage.http.get("/v1/workspaces/train/timeline")).json()["entries"]
    assert entries[0]["text"] == ("workspace registered: /workspace, empty, endpoint port 20000")
    last = entries[-1]
    assert last["event"] == "FailoverCompleted"
    assert last["severity"] == "success"
    threshold = next(e for e in entries if e["event"] == "ThresholdReached")
    assert threshold["evidence"] == ["tcp: connection refused", "provider: running"]


async def test_the_timeline_pages_by_position(stage: Stage) -> None:
    await stage.told(Tale().protected())
    path: str | None = "/v1/workspaces/train/timeline?limit=7"
    positions = []
    while path:
        answer = await stage.http.get(path)
        positions += [entry["position"] for entry in answer.json()["entries"]]
        path = answer.links["next"]["url"] if "next" in answer.links else None
    assert positions == list(range(1, await stage.log.head() + 1))


async def test_entries_older_than_memory_holds_are_read_from_the_log(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "KEPT_PER_WORKSPACE", 5)
    await stage.told(Tale().protected())
    entries = (await stage.http.get("/v1/workspaces/train/timeline?limit=1000")).json()["entries"]
    assert [e["position"] for e in entries] == list(range(1, await stage.log.head() + 1))


async def test_a_log_that_falls_silent_is_a_503_with_a_hint(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "KEPT_PER_WORKSPACE", 5)
    await stage.told(Tale().protected())
    stage.log.answering = False
    answer = await stage.http.get("/v1/workspaces/train/timeline")
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:dumont:problem:log-silent"
    assert (await stage.http.get("/v1/workspaces/train")).status_code == 200


async def test_generations_are_those_that_were_sealed(stage: Stage) -> None:
    await stage.told(Tale().protected())
    found = (await stage.http.get("/v1/workspaces/train/generations")).json()["generations"]
    assert [(g["epoch"], g["sequence"]) for g in found] == [(0, 1), (1, 2)]


async def test_the_recovery_under_way_has_a_place_of_its_own(stage: Stage) -> None:
    tale = Tale().registered().standby_up().synced()
    await stage.told(tale)
    assert (await stage.http.get("/v1/workspaces/train/recovery")).json() is None
    await stage.told(tale.searching())
    found = (await stage.http.get("/v1/workspaces/train/recovery")).json()
    assert found["step"] == "searching"


async def test_events_are_cloudevents_in_log_order(stage: Stage) -> None:
    await stage.told(Tale().protected())
    answer = (await stage.http.get("/v1/events?limit=1000")).json()
    EventsShown.model_validate(answer)
    events = answer["events"]
    assert [e["position"] for e in events] == list(range(1, await stage.log.head() + 1))
    assert events[0]["type"] == "dumont.WorkspaceRegistered.v1"
    assert events[0]["specversion"] == "1.0"
    assert events[0]["subject"] == "train"


async def test_events_can_be_narrowed_by_type_and_workspace(stage: Stage) -> None:
    await stage.told(Tale().protected().lost())
    other = Tale(WorkspaceName("art"))
    other.registered()
    await stage.told(other)
    by_type = (await stage.http.get("/v1/events?type=FailoverCompleted")).json()
    assert [e["type"] for e in by_type["events"]] == ["dumont.FailoverCompleted.v1"]
    by_name = (await stage.http.get("/v1/events?workspace=art")).json()
    assert [e["subject"] for e in by_name["events"]] == ["art"]
    assert by_name["next"] is None


async def test_an_unknown_event_type_is_refused_with_those_that_exist(stage: Stage) -> None:
    answer = await stage.http.get("/v1/events?type=FailOver")
    assert answer.status_code == 422
    assert FailoverCompleted.type in answer.json()["hint"]


async def test_telemetry_shows_as_utilisation_and_is_never_recorded(stage: Stage) -> None:
    await stage.told(Tale().protected())
    head = await stage.log.head()
    beat = (
        f'{{"machine":"{gpu().id}","heartbeat":{{"load":0.5,"gpu":{{"utilization_percent":87}}}}}}'
    )
    await stage.bus.publish_raw("dumont.telemetry.health.train.check", beat.encode())
    await stage.bus.publish_raw("dumont.telemetry.health.train.check", b"not json")
    primary = (await stage.http.get("/v1/workspaces/train")).json()["primary"]
    assert (primary["utilisation"], primary["load"]) == (0.87, 0.5)
    assert await stage.log.head() == head
