"""What the Vast client makes of each answer that the service is known to give."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from shared.clouds.errors import (
    AuthError,
    CloudError,
    NoAnswerError,
    NoCapacityNowError,
    NoSuchAskError,
    NotFoundError,
    RateLimitedError,
    RefusedError,
    ServerFailedError,
    UncertainError,
    UnexpectedAnswerError,
)
from shared.clouds.states import MachineState
from shared.clouds.vast import VastClient
from shared.clouds.vast_answers import Instance
from tests.support.faults import fault
from tests.support.http_answers import Answer, Answers, prepared_answers

pytestmark = pytest.mark.anyio

KEY = "vast-key-canary-0123456789"
ASK = "/api/v0/asks/111/"
LIST = "/api/v1/instances/"
ONE = "/api/v0/instances/777/"
SEARCH = "/api/v0/bundles/"
KEYS = "/api/v0/ssh/"


@pytest.fixture
def vast() -> Iterator[Answers]:
    with prepared_answers() as answers:
        yield answers


@pytest.fixture
async def client(vast: Answers) -> AsyncIterator[VastClient]:
    client = VastClient(key=KEY, url=vast.url, pace=0, timeout=5)
    yield client
    await client.aclose()


async def rent(client: VastClient) -> int:
    return await client.create(111, label="dumont-w-e0-a1", image="img:tag", disk_gb=32, bid=0.21)


async def test_a_rental_is_asked_for_as_the_official_client_does(
    vast: Answers, client: VastClient
) -> None:
    vast.to("PUT", ASK, Answer({"success": True, "new_contract": 27, "instance_api_key": "s"}))
    assert await rent(client) == 27
    (asked,) = vast.asked
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.body["label"] == "dumont-w-e0-a1"
    assert asked.body["price"] == 0.21
    assert asked.body["runtype"] == "ssh_direc ssh_proxy"
    assert asked.body["cancel_unavail"] is True


REFUSALS: list[tuple[str, Answer, type[CloudError]]] = [
    ("no key", Answer({"success": False, "error": "auth_error"}, 403), AuthError),
    (
        "an unknown key, which is a 404",
        Answer({"success": False, "error": "auth_error", "msg": "Invalid user key"}, 404),
        AuthError,
    ),
    (
        "an expired session",
        Answer({"msg": "Session expired. Please log in again."}, 404),
        AuthError,
    ),
    ("a 401", Answer("who are you", 401), AuthError),
    (
        "a taken offer as 404",
        Answer({"error": "invalid_args", "msg": "error 404/3603: no_such_ask Instance type"}, 404),
        NoSuchAskError,
    ),
    ("a taken offer as 410", Answer({"error": "no_such_ask", "msg": "gone"}, 410), NoSuchAskError),
    (
        "a taken offer as 200",
        Answer({"success": False, "msg": "no_such_ask"}, 200),
        NoSuchAskError,
    ),
    (
        "no credit",
        Answer({"error": "insufficient_credit", "msg": "lacks credit"}, 400),
        RefusedError,
    ),
    ("a reserved offer", Answer({"msg": "reserved for somebody else"}, 403), RefusedError),
    (
        "too many calls",
        Answer("API requests too frequent: endpoint threshold=4.5", 429),
        RateLimitedError,
    ),
    ("a failing server", Answer("<html>bad gateway</html>", 502), ServerFailedError),
    ("a page of HTML", Answer("<html>hello</html>", 200), UnexpectedAnswerError),
    ("a redirect", Answer("", 301, {"Location": "/elsewhere"}), UnexpectedAnswerError),
    ("a 404 that names nothing", Answer("not here", 404), UnexpectedAnswerError),
    ("a success without a contract", Answer({"success": True}), UnexpectedAnswerError),
    (
        "a contract that is no number",
        Answer({"success": True, "new_contract": None}),
        UnexpectedAnswerError,
    ),
    ("a list", Answer([1, 2]), UnexpectedAnswerError),
    ("a connection that breaks", Answer(hang_up=True), NoAnswerError),
]


@pytest.mark.parametrize(
    ("answer", "error"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
async def test_a_create_that_meets(
    vast: Answers, client: VastClient, answer: Answer, error: type[CloudError]
) -> None:
    vast.to("PUT", ASK, answer)
    with pytest.raises(CloudError) as caught:
        await rent(client)
    assert type(caught.value) is error
    assert vast.count("PUT", ASK) == 1, "a create is never repeated by the client"


@fault(62)
async def test_a_refusal_that_left_a_machine_behind_says_which(
    vast: Answers, client: VastClient
) -> None:
    vast.to("PUT", ASK, Answer({"success": False, "error": "low_bid", "new_contract": 99}))
    with pytest.raises(RefusedError) as caught:
        await rent(client)
    assert caught.value.created == "99"


@fault(56)
async def test_a_create_that_nobody_takes_has_an_unknown_outcome() -> None:
    client = VastClient(key=KEY, url="http://127.0.0.1:1", pace=0)
    with pytest.raises(UncertainError):
        await rent(client)
    await client.aclose()


@fault(54)
async def test_the_quota_error_says_when_to_come_back_and_is_not_retried(
    vast: Answers, client: VastClient
) -> None:
    vast.to(
        "POST", SEARCH, Answer({"error": "search_quota_exceeded", "retry_after": 14233}, status=429)
    )
    with pytest.raises(RateLimitedError) as caught:
        await client.search({}, storage_gb=32, limit=10)
    assert caught.value.retry_after == 14233
    assert vast.count("POST", SEARCH) == 1


@pytest.mark.parametrize(
    "stumble",
    [Answer("later", 503), Answer("slower", 429), Answer(hang_up=True)],
    ids=["503", "429", "hang up"],
)
async def test_a_read_is_made_again_after_a_passing_trouble(
    vast: Answers, client: VastClient, stumble: Answer
) -> None:
    vast.to("POST", SEARCH, stumble, stumble, Answer({"offers": []}))
    assert await client.search({}, storage_gb=32, limit=10) == []
    assert vast.count("POST", SEARCH) == 3


async def test_an_offer_full_of_nulls_is_read_and_one_without_an_id_is_left_out(
    vast: Answers, client: VastClient
) -> None:
    row = {"id": 1, "gpu_ram": None, "dph_total": "cheap", "geolocation": ", US", "new": {"x": 1}}
    vast.to("POST", SEARCH, Answer({"offers": [row, {"machine_id": 2}, None], "truncated": False}))
    (ask,) = await client.search({}, storage_gb=32, limit=10)
    assert (ask.id, ask.gpu_ram, ask.dph_total, ask.country) == (1, None, None, "US")


@fault(58)
async def test_the_list_is_read_to_its_last_page(vast: Answers, client: VastClient) -> None:
    vast.to(
        "GET",
        LIST,
        Answer({"success": True, "instances": [{"id": 1}, {"id": 2}], "next_token": "t1"}),
        Answer({"success": True, "instances": [{"id": 2}, {"id": 3}], "next_token": "t2"}),
        Answer({"success": True, "instances": [{"id": 4, "cur_state": "unloaded"}]}),
    )
    assert [row.id for row in await client.instances()] == [1, 2, 3]
    queries = [httpx.QueryParams(asked.query) for asked in vast.asked]
    assert [query.get("after_token") for query in queries] == [None, "t1", "t2"]
    assert all(query["limit"] == "25" for query in queries)


GARBLED: list[tuple[str, Answer]] = [
    ("the end of the old list", Answer({"success": False, "error": "deprecated_endpoint"}, 410)),
    ("no instances key", Answer({"success": True})),
    ("null for a list", Answer({"success": True, "instances": None})),
    ("a row without an id", Answer({"success": True, "instances": [{"label": "x"}]})),
    ("an empty body", Answer("")),
    ("a list cut short", Answer('{"instances": [{"id": 1}')),
    ("a token that leads to itself", Answer({"instances": [], "next_token": "same"})),
    ("an unknown key", Answer({"error": "auth_error"}, 404)),
]


@fault(55, 58)
@pytest.mark.parametrize("answer", [case[1] for case in GARBLED], ids=[case[0] for case in GARBLED])
async def test_a_list_is_never_taken_for_empty_because_of(
    vast: Answers, client: VastClient, answer: Answer
) -> None:
    vast.to("GET", LIST, answer)
    with pytest.raises(CloudError):
        await client.instances()


@fault(58)
async def test_a_machine_is_gone_only_on_the_services_word(
    vast: Answers, client: VastClient
) -> None:
    vast.to("GET", ONE, Answer({"instances": None}))
    assert await client.instance(777) is None
    vast.to("GET", ONE, Answer({"error": "no_such_instance", "msg": "..."}, 404))
    assert await client.instance(777) is None
    for doubtful in (
        Answer({"success": False, "error": "auth_error", "msg": "Invalid user key"}, 404),
        Answer("Not Found", 404),
        Answer({"instances": []}),
        Answer({}),
    ):
        vast.to("GET", ONE, doubtful)
        with pytest.raises(CloudError):
            await client.instance(777)


async def test_destroying_what_is_gone_says_so(vast: Answers, client: VastClient) -> None:
    vast.to("DELETE", ONE, Answer({"success": False, "error": "no_such_instance"}, 404))
    with pytest.raises(NotFoundError):
        await client.destroy(777)


async def test_a_queued_start_is_not_a_start(vast: Answers, client: VastClient) -> None:
    vast.to(
        "PUT", ONE, Answer({"success": False, "error": "resources_unavailable", "msg": "queued"})
    )
    with pytest.raises(NoCapacityNowError):
        await client.start(777)


async def test_account_keys_are_read_in_both_shapes(vast: Answers, client: VastClient) -> None:
    vast.to(
        "GET", KEYS, Answer([{"key": "a"}, {"public_key": "b"}, {"key": "c", "deleted_at": "x"}])
    )
    assert await client.ssh_keys() == ["a", "b"]
    vast.to("GET", KEYS, Answer({"msg": "no keys"}, 404))
    assert await client.ssh_keys() == []


@fault(98)
async def test_no_error_shows_a_secret(vast: Answers, client: VastClient) -> None:
    leak = {"msg": f"bad key {KEY}", "instance_api_key": "canary-2", "jupyter_token": "canary-3"}
    for answer in (Answer(leak, 400), Answer(leak, 500), Answer(leak), Answer(str(leak), 404)):
        vast.to("PUT", ASK, answer)
        with pytest.raises(CloudError) as caught:
            await rent(client)
        shown = f"{caught.value!r} {caught.value.evidence}"
        assert KEY not in shown
        if not isinstance(answer.body, str):
            assert "canary" not in shown


def row(**fields: Any) -> Instance:
    same = dict.fromkeys(("intended_status", "cur_state", "next_state"), "running")
    return Instance.model_validate({"id": 1, "is_bid": True, **same, **fields})


STOPPED = dict.fromkeys(("intended_status", "cur_state", "next_state"), "stopped")
STATES: list[tuple[str, Instance, MachineState, str]] = [
    ("up", row(actual_status="running"), MachineState.RUNNING, "running"),
    ("just created", row(actual_status=None), MachineState.BOOTING, "being provisioned"),
    ("pulling its image", row(actual_status="loading"), MachineState.BOOTING, "loading"),
    ("outbid, form A", row(actual_status="stopped"), MachineState.STOPPED, "outbid"),
    (
        "outbid, form A, with its state stopped too",
        row(actual_status="stopped", cur_state="stopped"),
        MachineState.STOPPED,
        "outbid",
    ),
    ("outbid, form B", row(actual_status="exited", **STOPPED), MachineState.STOPPED, "outbid"),
    (
        "outbid, form B, still loading",
        row(actual_status="loading", **STOPPED, status_msg="success, running img"),
        MachineState.STOPPED,
        "outbid",
    ),
    (
        "stopped, and not a bid",
        row(actual_status="exited", is_bid=False, **STOPPED),
        MachineState.STOPPED,
        "stopped",
    ),
    (
        "one that never booted",
        row(actual_status="created", **STOPPED, status_msg="Error: OCI runtime create failed"),
        MachineState.FAILED,
        "did not boot: error: oci runtime create failed",
    ),
    (
        "a container that ended",
        row(actual_status="exited"),
        MachineState.FAILED,
        "its container ended",
    ),
    ("offline", row(actual_status="offline"), MachineState.LOST, "host offline"),
    ("without heartbeat", row(actual_status="unknown"), MachineState.LOST, "host unknown"),
    (
        "queued for a start",
        row(actual_status="exited", cur_state="scheduling"),
        MachineState.STOPPED,
        "waiting for resources",
    ),
    (
        "a word from the future",
        row(actual_status="teleporting"),
        MachineState.UNKNOWN,
        "status 'teleporting'",
    ),
    ("no status at all", Instance(id=1), MachineState.UNKNOWN, "no status"),
]


@pytest.mark.parametrize(
    ("instance", "state", "text"), [case[1:] for case in STATES], ids=[case[0] for case in STATES]
)
def test_a_machine_that_is(instance: Instance, state: MachineState, text: str) -> None:
    assert (instance.said.state, instance.said.text) == (state, text)


def test_a_machine_is_reached_directly_and_else_through_the_proxy() -> None:
    proxy = {"ssh_host": "ssh7.example", "ssh_port": 30123}
    ports = {
        "22/tcp": [{"HostIp": "::", "HostPort": "9"}, {"HostIp": "0.0.0.0", "HostPort": "40022"}]
    }
    up = {"actual_status": "running", "public_ipaddr": "203.0.113.20\n", **proxy}
    assert row(**up, ports=ports).ssh_address == ("203.0.113.20", 40022)
    assert row(**up, ports={}).ssh_address == ("ssh7.example", 30123)
    jupyter = row(**up, ports=None, image_runtype="jupyter_proxy ssh_proxy")
    assert jupyter.ssh_address == ("ssh7.example", 30124)
    assert row(actual_status="loading", **proxy).ssh_address is None


def test_only_a_machine_that_nobody_wants_and_whose_host_says_so_counts_as_stopped() -> None:
    assert row(actual_status="exited", **STOPPED).stopped_for_good
    assert row(actual_status="loading", **STOPPED).stopped_for_good
    assert not row(actual_status="running", **STOPPED).stopped_for_good
    assert not row(actual_status="offline", **STOPPED).stopped_for_good
    assert not row(actual_status="stopped").stopped_for_good, "the market may start it again"
