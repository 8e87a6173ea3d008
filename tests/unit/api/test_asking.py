"""Requests over HTTP: taken as facts, answered from the log."""

import pytest

from shared.events.recovery import RequestRefused
from shared.events.requests import RequestReceived
from shared.subjects import STREAM_INBOX
from tests.support.faults import fault
from tests.unit.api.conftest import Stage
from tests.unit.api.tale import Tale

pytestmark = pytest.mark.anyio


def asked(stage: Stage) -> list[RequestReceived]:
    found = [envelope.event for envelope in stage.bus.published(STREAM_INBOX)]
    assert all(isinstance(event, RequestReceived) for event in found)
    return found  # type: ignore[return-value]


# --- registration --------------------------------------------------------------------------------


async def test_a_registration_is_answered_with_the_state_of_the_new_workspace(
    stage: Stage,
) -> None:
    body = {"name": "train", "policy": {"gpu_price_max": 0.4}}
    answer = await stage.http.post("/v1/workspaces", json=body)
    assert answer.status_code == 201
    assert answer.headers["Location"] == "/v1/workspaces/train"
    assert answer.json()["phase"] == "ON_STANDBY"
    (request,) = asked(stage)
    assert request.verb == "register"
    assert request.actor == "admin"
    assert request.arguments == {
        "path": "/workspace",
        "origin": "empty",
        "policy": {"gpu_price_max": 0.4},
        "adopted": None,
        "standby": None,
    }


async def test_an_adopted_host_and_a_standby_are_passed_on_as_hosts(stage: Stage) -> None:
    body = {
        "name": "train",
        "origin": "adopted",
        "adopted": {"ssh": "ubuntu@203.0.113.7:2222"},
        "standby": {"ssh": "[2001:db8::1]"},
    }
    await stage.http.post("/v1/workspaces", json=body)
    arguments = asked(stage)[0].arguments
    assert arguments["adopted"] == {
        "id": "train-adopted",
        "provider": "ssh",
        "provider_id": "203.0.113.7:2222",
        "address": "203.0.113.7",
        "port": 2222,
        "user": "ubuntu",
    }
    assert arguments["standby"] == {
        "id": "train-standby",
        "provider": "ssh",
        "provider_id": "[2001:db8::1]:22",
        "address": "2001:db8::1",
        "port": 22,
        "user": "root",
    }


async def test_a_name_that_is_in_use_is_a_conflict(stage: Stage) -> None:
    await stage.told(Tale().registered())
    answer = await stage.http.post("/v1/workspaces", json={"name": "train"})
    assert answer.status_code == 409
    assert answer.json()["detail"] == "the name 'train' is taken"
    assert asked(stage) == []


async def test_a_refused_registration_is_a_conflict_with_the_reason(stage: Stage) -> None:
    stage.clerk.answer = lambda request: RequestRefused(
        workspace=request.workspace,
        epoch=0,
        verb="register",
        reason="every endpoint port is in use",
        hint="widen DUMONT_ENDPOINT_PORTS",
    )
    answer = await stage.http.post("/v1/workspaces", json={"name": "train"})
    assert answer.status_code == 409
    assert answer.json()["detail"] == "every endpoint port is in use"
    assert answer.json()["hint"] == "widen DUMONT_ENDPOINT_PORTS"


@pytest.mark.usefixtures("impatient")
async def test_a_registration_that_nobody_answers_yet_is_under_way(stage: Stage) -> None:
    stage.clerk.working = False
    answer = await stage.http.post("/v1/workspaces", json={"name": "train"})
    assert answer.status_code == 202
    assert answer.json()["status"] == "pending"
    assert answer.json()["recorded"] is False


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "Train"}, "name: workspace name 'Train' is not usable"),
        ({}, "name: Field required"),
        ({"name": "train", "path": "workspace"}, "path 'workspace' is not usable"),
        ({"name": "train", "path": "/a/../b"}, "is not usable"),
        ({"name": "train", "origin": "cloned"}, "origin: "),
        ({"name": "train", "origin": "adopted"}, "origin adopted needs adopted"),
        ({"name": "train", "adopted": {"ssh": "h"}}, "adopted goes with origin adopted"),
        (
            {"name": "train", "origin": "adopted", "adopted": {"ssh": "h:99999"}},
            "give it as user@host:port",
        ),
        ({"name": "train", "origin": "adopted", "adopted": {}}, "either ssh"),
        ({"name": "train", "policy": {"sync_intervall": 3}}, "did you mean 'sync_interval'?"),
        ({"name": "train", "policy": {"sync_interval": 0}}, "must be greater than 0"),
        ({"name": "train", "policy": {"sync_interval": "soon"}}, "sync_interval: "),
        ({"name": "train", "polcy": {}}, "polcy: there is no such field"),
    ],
)
async def test_a_bad_registration_says_which_field_and_why(
    stage: Stage, body: dict[str, object], said: str
) -> None:
    answer = await stage.http.post("/v1/workspaces", json=body)
    assert answer.status_code == 422
    problem = answer.json()
    assert said in problem["detail"]
    assert problem["hint"]
    assert asked(stage) == []


# --- verbs ---------------------------------------------------------------------------------------


async def test_a_request_is_taken_recorded_and_answered_by_its_operation(stage: Stage) -> None:
    await stage.told(Tale().registered())
    answer = await stage.http.post("/v1/workspaces/train/pause", json={"reason": "maintenance"})
    assert answer.status_code == 202
    operation = (await stage.http.get(answer.headers["Location"])).json()
    assert operation["recorded"] is True
    assert operation["status"] == "done"
    state = (await stage.http.get("/v1/workspaces/train")).json()
    assert state["paused_reason"] == "maintenance"


async def test_a_refused_request_says_why_in_its_operation(stage: Stage) -> None:
    await stage.told(Tale().registered())
    answer = await stage.http.post("/v1/workspaces/train/failover")
    location = answer.headers["Location"]
    await stage.front.follower.until(lambda board: board.position == 3, 5)
    operation = (await stage.http.get(location)).json()
    assert (operation["status"], operation["reason"]) == ("refused", "no standby")
    assert operation["hint"] == "wait for it"


async def test_a_person_who_accepts_a_loss_says_so_in_the_request(stage: Stage) -> None:
    await stage.told(Tale().registered())
    for body in ({}, {"allow_data_loss": True}, {"reason": "now", "allow_data_loss": False}):
        await stage.http.post("/v1/workspaces/train/failover", json=body)
    assert [request.arguments for request in asked(stage)] == [
        {},
        {"allow_data_loss": True},
        {"reason": "now"},
    ]


async def test_a_moment_to_go_back_to_is_passed_on_and_must_have_a_time_zone(stage: Stage) -> None:
    await stage.told(Tale().registered())
    for before, code in (("2026-01-31T08:00:00Z", 202), ("2026-01-31T08:00:00", 422), ("x", 422)):
        answer = await stage.http.post("/v1/workspaces/train/failover", json={"before": before})
        assert answer.status_code == code
    assert [r.arguments for r in asked(stage)] == [{"before": "2026-01-31T08:00:00+00:00"}]


async def test_no_other_request_takes_a_loss_of_data(stage: Stage) -> None:
    await stage.told(Tale().registered())
    answer = await stage.http.post("/v1/workspaces/train/recover", json={"allow_data_loss": True})
    assert answer.status_code == 422
    assert asked(stage) == []


async def test_a_request_with_no_end_yet_is_pending(stage: Stage) -> None:
    await stage.told(Tale().registered())
    answer = await stage.http.post("/v1/workspaces/train/recover")
    assert answer.json()["status"] == "pending"
    assert answer.json()["recorded"] is True


@fault(15)
async def test_a_repeat_under_the_same_key_is_the_same_operation(stage: Stage) -> None:
    await stage.told(Tale().registered())
    key = {"Idempotency-Key": "k-1"}
    first = await stage.http.post("/v1/workspaces/train/pause", headers=key)
    again = await stage.http.post("/v1/workspaces/train/pause", headers=key)
    assert first.headers["Location"] == again.headers["Location"]
    assert len(asked(stage)) == 1


@fault(15)
async def test_a_repeated_registration_under_the_same_key_is_answered_from_the_log(
    stage: Stage,
) -> None:
    key = {"Idempotency-Key": "k-2"}
    first = await stage.http.post("/v1/workspaces", json={"name": "train"}, headers=key)
    again = await stage.http.post("/v1/workspaces", json={"name": "train"}, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert len(asked(stage)) == 1


async def test_a_key_that_was_used_for_something_else_is_refused(stage: Stage) -> None:
    await stage.told(Tale().registered())
    key = {"Idempotency-Key": "k-3"}
    await stage.http.post("/v1/workspaces/train/pause", headers=key)
    answer = await stage.http.post("/v1/workspaces/train/resume", headers=key)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:dumont:problem:key-reused"


async def test_a_request_that_the_bus_never_saw_was_not_taken(stage: Stage) -> None:
    await stage.told(Tale().registered())
    stage.bus.connected = False
    answer = await stage.http.post("/v1/workspaces/train/pause")
    assert answer.status_code == 503
    assert answer.json()["taken"] is False


@fault(15, 35)
async def test_a_request_that_the_bus_did_not_confirm_may_have_been_taken(
    stage: Stage,
) -> None:
    await stage.told(Tale().registered())
    stage.bus.losing_answers = True
    answer = await stage.http.post("/v1/workspaces/train/pause")
    assert answer.status_code == 503
    assert answer.json()["taken"] is None
    assert "may have been taken" in answer.json()["detail"]


@pytest.mark.usefixtures("impatient")
async def test_a_request_that_is_taken_and_not_recorded_yet_has_an_operation(
    stage: Stage,
) -> None:
    await stage.told(Tale().registered())
    stage.clerk.working = False
    answer = await stage.http.post("/v1/workspaces/train/pause")
    assert answer.status_code == 202
    operation = (await stage.http.get(answer.headers["Location"])).json()
    assert (operation["status"], operation["recorded"]) == ("pending", False)


@fault(15, 26)
@pytest.mark.usefixtures("impatient")
async def test_a_repeat_of_a_request_that_the_bus_lost_puts_it_in_the_log(stage: Stage) -> None:
    await stage.told(Tale().registered())
    key = {"Idempotency-Key": "k-4"}
    stage.bus.forgetting = True
    first = await stage.http.post("/v1/workspaces/train/recover", headers=key)
    stage.bus.forgetting = False
    assert first.json()["recorded"] is False
    await stage.http.post("/v1/workspaces/train/recover", headers=key)
    assert await stage.front.follower.until(lambda board: len(asked(stage)) == 1, 5)
    again = await stage.http.post("/v1/workspaces/train/recover", headers=key)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json()["recorded"] is True
    assert len(asked(stage)) == 1


async def test_an_unknown_operation_is_a_problem(stage: Stage) -> None:
    answer = await stage.http.get("/v1/operations/00000000-0000-4000-8000-000000000000")
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:dumont:problem:unknown-operation"


async def test_asking_anything_of_an_unknown_workspace_is_refused_here(stage: Stage) -> None:
    assert (await stage.http.post("/v1/workspaces/nobody/pause")).status_code == 404
    assert (await stage.http.delete("/v1/workspaces/nobody")).status_code == 404
    assert asked(stage) == []


async def test_removing_a_workspace_is_a_request_like_any_other(stage: Stage) -> None:
    await stage.told(Tale().registered())
    answer = await stage.http.delete("/v1/workspaces/train")
    assert answer.status_code == 202
    assert [request.verb for request in asked(stage)] == ["remove"]


async def test_an_answer_spells_a_state_as_every_later_reading_does(stage: Stage) -> None:
    made = (await stage.http.post("/v1/workspaces", json={"name": "train"})).json()
    read = (await stage.http.get("/v1/workspaces/train")).json()
    assert made == read
