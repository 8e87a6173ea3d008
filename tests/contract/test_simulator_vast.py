"""The simulated GPU market answers as Vast's API does."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.simulator import Simulator, simulator
from tests.support.waiting import eventually

Json = dict[str, Any]
_labels = (f"vast-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    directory = tmp_path_factory.mktemp("clouds")
    with simulator(directory, boot_seconds=0.05, hidden_seconds=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def client(clouds: Simulator) -> Iterator[httpx.Client]:
    with clouds.vast() as client:
        yield client


@pytest.fixture
def vast(clouds: Simulator, client: httpx.Client) -> Iterator[httpx.Client]:
    """The tenant's client; nothing is rented and no fault is armed after each test."""
    yield client
    clouds.control.delete("/faults")
    for machine in clouds.machines():
        client.delete(f"/api/v0/instances/{machine['id']}/")


def search(vast: httpx.Client, **filters: Any) -> list[Json]:
    answer = vast.post("/api/v0/bundles/", json={"type": "bid", **filters})
    assert answer.status_code == 200, answer.text
    offers: list[Json] = answer.json()["offers"]
    return offers


def order(offer: Json, **changes: Any) -> Json:
    body = {"image": "img:tag", "disk": 16.0, "label": next(_labels), "cancel_unavail": True}
    body |= {"price": round(offer["min_bid"] * 1.2, 4), "runtype": "ssh_direc ssh_proxy"}
    return body | changes


def rent(vast: httpx.Client, **changes: Any) -> int:
    offer = search(vast)[0]
    answer = vast.put(f"/api/v0/asks/{offer['id']}/", json=order(offer, **changes))
    assert answer.status_code == 200, answer.text
    assert answer.json()["success"] is True
    return int(answer.json()["new_contract"])


def show(vast: httpx.Client, id: int) -> Json | None:
    instance: Json | None = vast.get(f"/api/v0/instances/{id}/").json()["instances"]
    return instance


def running(vast: httpx.Client, id: int) -> Json:
    def look() -> Json | None:
        row = show(vast, id)
        return row if row and row["actual_status"] == "running" else None

    return eventually(look)


def listed(vast: httpx.Client, **params: str) -> Json:
    answer = vast.get("/api/v1/instances/", params={"limit": "25"} | params)
    assert answer.status_code == 200, answer.text
    page: Json = answer.json()
    return page


def states(row: Json) -> tuple[str, str, str, str]:
    return row["actual_status"], row["intended_status"], row["cur_state"], row["next_state"]


# Who may call


def test_a_call_without_a_key_is_refused(clouds: Simulator) -> None:
    answer = httpx.get(f"{clouds.vast_url}/api/v1/instances/")
    assert (answer.status_code, answer.json()["error"]) == (403, "auth_error")


def test_an_unknown_key_gets_a_404_that_says_auth_error(clouds: Simulator) -> None:
    with clouds.vast("wrong") as vast:
        answer = vast.get("/api/v0/instances/1/")
    assert (answer.status_code, answer.json()["error"]) == (404, "auth_error")


def test_the_read_key_sees_and_cannot_change(clouds: Simulator) -> None:
    with clouds.vast(clouds.keys["vast_read"]) as vast:
        assert vast.get("/api/v1/instances/").status_code == 200
        assert vast.delete("/api/v0/instances/1/").status_code == 403
        assert vast.put("/api/v0/asks/1/", json={}).status_code == 403


def test_answers_are_exactly_application_json(vast: httpx.Client) -> None:
    assert vast.get("/api/v1/instances/").headers["content-type"] == "application/json"


# Searching


def test_a_search_meets_every_filter_in_the_order_asked_for(vast: httpx.Client) -> None:
    offers = search(
        vast,
        geolocation={"in": ["TH", "VN", "JP"]},
        gpu_ram={"gte": 12000},
        verified={"eq": True},
        dph_total={"gte": 0.1, "lte": 0.5},
        order=[["dph_total", "asc"]],
    )
    assert len(offers) >= 3
    assert {offer["geolocation"][-2:] for offer in offers} == {"TH", "VN", "JP"}
    assert all(offer["gpu_ram"] >= 12000 for offer in offers)
    assert all(offer["verification"] == "verified" for offer in offers)
    prices = [offer["dph_total"] for offer in offers]
    assert prices == sorted(prices)
    assert prices[-1] <= 0.5


def test_numbers_may_come_as_text_as_the_official_client_sends_them(vast: httpx.Client) -> None:
    assert len(search(vast, num_gpus={"eq": "1"}, dph_total={"lt": "9"})) == 24
    assert search(vast, num_gpus={"eq": "2"}) == []


def test_a_bid_row_is_priced_at_its_floor_and_disk_is_on_top(vast: httpx.Client) -> None:
    offer = search(vast, allocated_storage=32)[0]
    assert offer["is_bid"] is True
    assert offer["dph_base"] == offer["min_bid"]
    disk = 32 * offer["storage_cost"] / 720
    assert offer["dph_total"] == pytest.approx(offer["min_bid"] + disk)
    (demand,) = search(vast, type="on-demand", machine_id={"eq": offer["machine_id"]})
    assert demand["dph_base"] > offer["min_bid"]


def test_regions_are_country_codes_only_and_ids_match_nothing(vast: httpx.Client) -> None:
    assert search(vast, geolocation={"eq": "EU"}) == []
    offer = search(vast)[0]
    assert search(vast, id={"eq": offer["id"]}) == []
    assert len(search(vast, ask_contract_id={"eq": offer["id"]})) == 1


def test_the_newer_search_asks_the_same_question(vast: httpx.Client) -> None:
    body = {"select_cols": ["*"], "q": {"type": "bid", "geolocation": {"eq": "JP"}}}
    offers = vast.put("/api/v0/search/asks/", json=body).json()["offers"]
    assert {offer["geolocation"][-2:] for offer in offers} == {"JP"}


@pytest.mark.parametrize(
    "body",
    [b"{not json", b'{"gpu_ram": {"over": 3}}', b'{"order": "price"}', b'{"type": "free"}'],
)
def test_a_search_that_cannot_be_read_is_a_400(vast: httpx.Client, body: bytes) -> None:
    answer = vast.post("/api/v0/bundles/", content=body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


# Renting


def test_an_instance_comes_up_through_its_states(vast: httpx.Client, clouds: Simulator) -> None:
    clouds.fault("boot-delay", seconds=0.4, count=1)
    id = rent(vast, env={"A": "b", "-p 8000:8000": "1"})
    assert show(vast, id) is None
    seen: list[str] = []

    def look() -> bool:
        row = show(vast, id)
        if row and row["actual_status"] not in seen[-1:]:
            seen.append(row["actual_status"])
        return "running" in seen

    eventually(look)
    assert [one for one in seen if one] == ["created", "loading", "running"]
    row = running(vast, id)
    assert states(row) == ("running",) * 4
    assert row["public_ipaddr"].strip() == clouds.machine(id)["ip"]
    assert row["ports"]["22/tcp"][0]["HostPort"] == str(clouds.machine(id)["port"])
    assert row["extra_env"] == [["A", "b"], ["-p 8000:8000", "1"]]
    assert isinstance(row["start_date"], float)


def test_a_rented_offer_leaves_the_market_and_comes_back_under_a_new_ask(
    vast: httpx.Client,
) -> None:
    offer = search(vast)[0]
    id = vast.put(f"/api/v0/asks/{offer['id']}/", json=order(offer)).json()["new_contract"]
    same = {"machine_id": {"eq": offer["machine_id"]}}
    assert search(vast, **same) == []
    again = vast.put(f"/api/v0/asks/{offer['id']}/", json=order(offer))
    assert again.status_code == 404
    assert "no_such_ask" in again.json()["msg"]
    assert vast.delete(f"/api/v0/instances/{id}/").json() == {"success": True}
    (relisted,) = search(vast, **same)
    assert relisted["id"] != offer["id"]


def test_a_bid_below_the_floor_is_cancelled_or_leaves_a_stopped_instance(
    vast: httpx.Client,
) -> None:
    offer = search(vast)[0]
    low = order(offer, price=0.01)
    refused = vast.put(f"/api/v0/asks/{offer['id']}/", json=low)
    assert (refused.status_code, refused.json()["error"]) == (410, "no_such_ask")
    kept = vast.put(f"/api/v0/asks/{offer['id']}/", json=low | {"cancel_unavail": False}).json()
    assert kept["success"] is False
    row = eventually(lambda: show(vast, kept["new_contract"]))
    assert states(row)[1:] == ("stopped",) * 3


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"price": 0}, "invalid_price"),
        ({"price": "cheap"}, "invalid_price"),
        ({"disk": 4}, "invalid_args"),
        ({"disk": 1e6}, "invalid_args"),
        ({"image": None}, "invalid_args"),
        ({"label": "x" * 257}, "invalid_args"),
        ({"onstart": "x" * 4097}, "invalid_args"),
        ({"runtype": "telnet"}, "invalid_args"),
        ({"env": "-p 1:1"}, "invalid_args"),
    ],
)
def test_a_create_that_is_not_valid_is_refused(
    vast: httpx.Client, changes: Json, code: str
) -> None:
    offer = search(vast)[0]
    answer = vast.put(f"/api/v0/asks/{offer['id']}/", json=order(offer, **changes))
    assert (answer.status_code, answer.json()["error"]) == (400, code)


def test_without_credit_nothing_is_rented_and_everything_stops(
    vast: httpx.Client, clouds: Simulator
) -> None:
    id = rent(vast)
    running(vast, id)
    clouds.control.put("/credit", json={"usd": 0})
    assert states(show(vast, id) or {}) == ("exited", "stopped", "stopped", "stopped")
    offer = search(vast)[0]
    answer = vast.put(f"/api/v0/asks/{offer['id']}/", json=order(offer))
    assert (answer.status_code, answer.json()["error"]) == (400, "insufficient_credit")
    clouds.control.put("/credit", json={"usd": 50})
    assert vast.get("/api/v0/users/current").json()["credit"] == pytest.approx(50, abs=0.01)


# Listing


def test_the_old_list_is_gone(vast: httpx.Client) -> None:
    answer = vast.get("/api/v0/instances/")
    assert answer.status_code == 410
    assert answer.json()["error"] == "deprecated_endpoint"


def test_the_list_is_paged_and_five_rows_long_when_no_limit_is_given(vast: httpx.Client) -> None:
    ids = sorted(rent(vast, label="many") for _ in range(7))
    first = vast.get("/api/v1/instances/").json()
    assert len(first["instances"]) == 5
    assert first["label_counts"] == {"many": 7}
    rest = vast.get("/api/v1/instances/", params={"after_token": first["next_token"]}).json()
    assert rest["next_token"] is None
    assert [row["id"] for row in first["instances"] + rest["instances"]] == ids
    assert len(listed(vast, limit="400")["instances"]) == 7


def test_the_list_filters_stored_columns_alone(vast: httpx.Client) -> None:
    id = rent(vast, label="wanted")
    rent(vast, label="other")
    found = listed(vast, select_filters=json.dumps({"label": {"eq": "wanted"}}))
    assert [row["id"] for row in found["instances"]] == [id]
    computed = json.dumps({"dph_total": {"lt": 1}})
    answer = vast.get("/api/v1/instances/", params={"select_filters": computed})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert vast.get("/api/v1/instances/", params={"after_token": "?"}).status_code == 400
    columns = listed(vast, select_cols=json.dumps(["id", "label"]))["instances"][0]
    assert set(columns) == {"id", "label"}


def test_a_list_that_lags_or_lies_leaves_instances_out(
    vast: httpx.Client, clouds: Simulator
) -> None:
    id = rent(vast)
    clouds.fault("list-empty", count=1)
    assert listed(vast)["instances"] == []
    assert [row["id"] for row in listed(vast)["instances"]] == [id]
    clouds.fault("list-lag", seconds=60)
    assert listed(vast)["instances"] == []
    assert eventually(lambda: show(vast, id))["id"] == id


def test_the_filters_are_the_combinations_that_there_are(vast: httpx.Client) -> None:
    running(vast, rent(vast))
    (found,) = vast.get("/api/v0/instances/filters/").json()["filters"]
    assert found["actual_status"] == "running"
    assert {"verification", "gpu_name"} < set(found)
    assert found["gpu_name"] in vast.get("/api/v0/gpu_names/unique/").json()["gpu_names"]


# Acting on an instance


def test_stop_start_label_and_destroy(vast: httpx.Client) -> None:
    id = rent(vast)
    running(vast, id)
    path = f"/api/v0/instances/{id}/"
    assert vast.put(path, json={"state": "stopped"}).json() == {"success": True}
    assert states(show(vast, id) or {}) == ("exited", "stopped", "stopped", "stopped")
    assert (show(vast, id) or {})["instance"]["gpuCostPerHour"] == 0
    assert vast.put(path, json={"state": "running"}).json() == {"success": True}
    running(vast, id)
    assert vast.put(path, json={"label": "new"}).json() == {"success": True}
    assert (show(vast, id) or {})["label"] == "new"
    assert vast.put(path, json={"label": "x" * 1025}).json()["error"] == "label_too_long"
    assert vast.request("DELETE", path, json={}).json() == {"success": True}
    assert show(vast, id) is None
    again = vast.delete(path)
    assert (again.status_code, again.json()["error"]) == (404, "no_such_instance")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("A", ("stopped", "running", "stopped", "running")),
        ("B", ("exited", "stopped", "stopped", "stopped")),
    ],
)
def test_an_outbid_instance_waits_until_its_bid_is_raised(
    vast: httpx.Client, clouds: Simulator, form: str, expected: tuple[str, ...]
) -> None:
    id = rent(vast)
    running(vast, id)
    clouds.happen(id, "outbid", form=form)
    row = show(vast, id) or {}
    assert states(row) == expected
    assert row["min_bid"] > row["dph_base"]
    queued = vast.put(f"/api/v0/instances/{id}/", json={"state": "running"})
    assert (queued.status_code, queued.json()["error"]) == (200, "resources_unavailable")
    assert queued.json()["success"] is False
    raised = {"client_id": "me", "price": round(row["min_bid"] * 1.1, 4)}
    assert vast.put(f"/api/v0/instances/bid_price/{id}/", json=raised).json() == {"success": True}
    assert running(vast, id)["dph_base"] == raised["price"]


def test_a_lost_host_is_offline_and_nothing_starts_there(
    vast: httpx.Client, clouds: Simulator
) -> None:
    id = rent(vast)
    running(vast, id)
    clouds.happen(id, "lose")
    assert states(show(vast, id) or {}) == ("offline", "running", "running", "running")
    answer = vast.put(f"/api/v0/instances/{id}/", json={"state": "running"}).json()
    assert answer["error"] == "resources_unavailable"


def test_keys_of_the_account_and_of_one_instance(vast: httpx.Client) -> None:
    assert vast.post("/api/v0/ssh/", json={"ssh_key": "nonsense"}).json()["error"] == "no_ssh_key"
    key = vast.post("/api/v0/ssh/", json={"ssh_key": "ssh-ed25519 AAAA me"}).json()["key"]
    assert key["id"] in [row["id"] for row in vast.get("/api/v0/ssh/").json()]
    id = rent(vast)
    attached = vast.post(f"/api/v0/instances/{id}/ssh/", json={"ssh_key": "ssh-ed25519 BBBB me"})
    assert attached.json()["success"] is True
    keys = json.loads(vast.get(f"/api/v0/instances/{id}/ssh/").json()["ssh_keys"])
    assert [row["public_key"] for row in keys] == ["ssh-ed25519 AAAA me", "ssh-ed25519 BBBB me"]
    gone = vast.delete(f"/api/v0/instances/{id}/ssh/{attached.json()['key']['id']}/")
    assert gone.json() == {"success": True}
    assert vast.delete(f"/api/v0/ssh/{key['id']}/").json() == {"success": True}
    assert vast.delete(f"/api/v0/ssh/{key['id']}/").json()["error"] == "no_ssh_key"


# Faults


def test_a_create_whose_answer_is_lost_has_happened(vast: httpx.Client, clouds: Simulator) -> None:
    offer = search(vast)[0]
    clouds.fault("create-answer-lost", count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        vast.put(f"/api/v0/asks/{offer['id']}/", json=order(offer, label="lost"))
    assert [row["label"] for row in listed(vast)["instances"]] == ["lost"]


def test_an_offer_vanishes_for_good(vast: httpx.Client, clouds: Simulator) -> None:
    offer = search(vast)[0]
    clouds.fault("offer-vanishes", status=410)
    answer = vast.put(f"/api/v0/asks/{offer['id']}/", json=order(offer))
    assert (answer.status_code, answer.json()["error"]) == (410, "no_such_ask")
    assert search(vast, ask_contract_id={"eq": offer["id"]}) == []
    rent(vast)


def test_a_destroy_that_lies_leaves_the_instance(vast: httpx.Client, clouds: Simulator) -> None:
    id = rent(vast)
    running(vast, id)
    clouds.fault("destroy-lies")
    assert vast.delete(f"/api/v0/instances/{id}/").json() == {"success": True}
    running(vast, id)
    assert clouds.ledger()["gpus_billed_now"] == 1


def test_a_failed_boot_says_so_in_its_message_only(vast: httpx.Client, clouds: Simulator) -> None:
    clouds.fault("boot-fails")
    id = rent(vast)
    row = eventually(lambda: (r := show(vast, id)) and r["cur_state"] == "stopped" and r)
    assert states(row) == ("loading", "stopped", "stopped", "stopped")
    assert "OCI runtime" in row["status_msg"]


def test_limits_and_errors_come_as_ordered(vast: httpx.Client, clouds: Simulator) -> None:
    clouds.fault("rate-limit", form="text")
    answer = vast.get("/api/v1/instances/")
    assert (answer.status_code, answer.text.startswith("API requests")) == (429, True)
    clouds.fault("rate-limit", form="quota")
    quota = vast.post("/api/v0/bundles/", json={})
    assert (quota.status_code, quota.json()["error"]) == (429, "search_quota_exceeded")
    assert quota.headers["retry-after"] == "14233"
    clouds.fault(
        "http-error", provider="vast", path_contains="bundles", status=502, body="oops", count=1
    )
    assert vast.get("/api/v1/instances/").status_code == 200
    assert vast.post("/api/v0/bundles/", json={}).status_code == 502
    assert vast.post("/api/v0/bundles/", json={}).status_code == 200


def test_a_second_call_within_the_interval_is_too_frequent(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("strict")
    with simulator(directory, rate_scale=1.0) as strict, strict.vast() as vast:
        assert vast.get("/api/v1/instances/").status_code == 200
        assert vast.get("/api/v1/instances/").status_code == 429
