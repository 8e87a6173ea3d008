"""What the Compute Engine client makes of each answer that the service is known to give."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest

from shared.clouds.errors import (
    AuthError,
    CloudError,
    NoAnswerError,
    NoCapacityNowError,
    NotFoundError,
    RateLimitedError,
    RefusedError,
    ServerFailedError,
    UncertainError,
    UnexpectedAnswerError,
)
from shared.clouds.gce import GceClient
from shared.clouds.gce_answers import VmSpec
from shared.clouds.states import MachineState
from tests.support.faults import fault
from tests.support.http_answers import Answer, Answers, prepared_answers

pytestmark = pytest.mark.anyio

ZONE = "europe-west1-b"
PROJECT = "/compute/v1/projects/p"
VMS = f"{PROJECT}/zones/{ZONE}/instances"
VM = f"{VMS}/standby-1"
OPERATION = f"{PROJECT}/zones/{ZONE}/operations/op-1"
ALL = f"{PROJECT}/aggregated/instances"
REQUEST = UUID(int=7)
SPEC = VmSpec(
    name="standby-1",
    machine_type="e2-medium",
    disk_gb=100,
    spot=True,
    image="projects/debian-cloud/global/images/family/debian-12",
    labels={"managed-by": "dumont-failover"},
    metadata={"startup-script": "#!/bin/sh\n"},
    tags=("dumont-standby",),
)


@pytest.fixture
def gce() -> Iterator[Answers]:
    with prepared_answers() as answers:
        yield answers


@pytest.fixture
async def client(gce: Answers) -> AsyncIterator[GceClient]:
    client = GceClient(project="p", url=gce.url, timeout=5, poll=0.01)
    yield client
    await client.aclose()


def refusal(code: int, reason: str, message: str) -> Answer:
    errors = [{"message": message, "domain": "global", "reason": reason}]
    return Answer({"error": {"code": code, "message": message, "errors": errors}}, status=code)


def running(**fields: Any) -> Answer:
    return Answer({"name": "op-1", "status": "RUNNING", **fields})


def done(*errors: dict[str, str]) -> Answer:
    failed = {"error": {"errors": list(errors)}} if errors else {}
    return Answer({"name": "op-1", "status": "DONE", "progress": 100, **failed})


def vm(name: str = "standby-1", status: str = "RUNNING", **fields: Any) -> dict[str, Any]:
    prefix = f"https://www.googleapis.com{PROJECT}/zones/{ZONE}"
    return {
        "name": name,
        "id": "42",
        "status": status,
        "zone": prefix,
        "machineType": f"{prefix}/machineTypes/e2-medium",
        "labels": {"managed-by": "dumont-failover"},
        "scheduling": {"provisioningModel": "SPOT"},
        "networkInterfaces": [{"accessConfigs": [{"natIP": "203.0.113.5"}]}],
        "aFieldFromTheFuture": {"x": 1},
        **fields,
    }


async def insert(client: GceClient, within: float = 5.0) -> None:
    await client.insert(ZONE, SPEC, request_id=REQUEST, within=within)


async def test_a_spot_vm_is_asked_for_with_its_request_id_and_waited_for(
    gce: Answers, client: GceClient
) -> None:
    gce.to("POST", VMS, running())
    gce.to("GET", OPERATION, running(), done())
    await insert(client)
    asked = gce.asked[0]
    assert f"requestId={REQUEST}" in asked.query
    assert asked.body["scheduling"] == {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "STOP",
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
    }
    assert asked.body["disks"][0]["initializeParams"]["diskSizeGb"] == "100"
    assert asked.body["labels"] == SPEC.labels
    assert "Authorization" not in asked.headers, "an emulator gets no credentials"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", NoCapacityNowError),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", NoCapacityNowError),
        ("SOME_STOCKOUT_OF_TOMORROW", NoCapacityNowError),
        ("QUOTA_EXCEEDED", NoCapacityNowError),
        ("INVALID_FIELD_VALUE", RefusedError),
    ],
)
async def test_a_failed_operation_is_done_and_still_an_error(
    gce: Answers, client: GceClient, code: str, error: type[CloudError]
) -> None:
    gce.to("POST", VMS, running())
    gce.to("GET", OPERATION, done({"code": code, "message": "no"}))
    with pytest.raises(CloudError) as caught:
        await insert(client)
    assert type(caught.value) is error
    assert caught.value.code == code


@fault(56)
async def test_an_operation_that_does_not_end_has_an_unknown_outcome(
    gce: Answers, client: GceClient
) -> None:
    gce.to("POST", VMS, running())
    gce.to("GET", OPERATION, running())
    with pytest.raises(UncertainError):
        await insert(client, within=0.1)


REFUSALS: list[tuple[str, Answer, type[CloudError]]] = [
    ("quota", refusal(403, "quotaExceeded", "Quota 'CPUS' exceeded"), NoCapacityNowError),
    ("an API rate, which is a 403", refusal(403, "rateLimitExceeded", "slow"), RateLimitedError),
    ("too many calls", refusal(429, "rateLimitExceeded", "slow"), RateLimitedError),
    ("a missing right", refusal(403, "forbidden", "Required permission"), AuthError),
    ("a 401", refusal(401, "authError", "Invalid credentials"), AuthError),
    ("a name that is taken", refusal(409, "alreadyExists", "exists"), RefusedError),
    ("a bad request", refusal(400, "invalid", "Invalid value"), RefusedError),
    ("an image that is not there", refusal(404, "notFound", "'images/x' not found"), RefusedError),
    ("a failing server", refusal(503, "backendError", "try later"), ServerFailedError),
    ("a page of HTML as an error", Answer("<html>", 502), ServerFailedError),
    ("a page of HTML", Answer("<html>"), UnexpectedAnswerError),
    ("an empty answer", Answer(""), UnexpectedAnswerError),
    ("a connection that breaks", Answer(hang_up=True), NoAnswerError),
]


@pytest.mark.parametrize(
    ("answer", "error"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
async def test_an_insert_that_meets(
    gce: Answers, client: GceClient, answer: Answer, error: type[CloudError]
) -> None:
    gce.to("POST", VMS, answer)
    with pytest.raises(CloudError) as caught:
        await insert(client)
    assert type(caught.value) is error
    assert gce.count("POST", VMS) == 1, "what changes something is never repeated by the client"


async def test_a_vm_is_gone_only_when_it_is_named_as_not_found(
    gce: Answers, client: GceClient
) -> None:
    named = "The resource 'projects/p/zones/z/instances/standby-1' was not found"
    gce.to("GET", VM, refusal(404, "notFound", named))
    assert await client.get(ZONE, "standby-1") is None
    gce.to("DELETE", VM, refusal(404, "notFound", named))
    with pytest.raises(NotFoundError):
        await client.delete(ZONE, "standby-1", within=5)
    for doubtful in ("The resource 'projects/p' was not found", "instances/standby-10' not found"):
        gce.to("GET", VM, refusal(404, "notFound", doubtful))
        with pytest.raises(RefusedError):
            await client.get(ZONE, "standby-1")
    gce.to("GET", VM, Answer("Not Found", 404))
    with pytest.raises(CloudError):
        await client.get(ZONE, "standby-1")


async def test_a_vm_is_read_with_what_it_has(gce: Answers, client: GceClient) -> None:
    gce.to("GET", VM, Answer(vm()))
    found = await client.get(ZONE, "standby-1")
    assert found is not None
    assert (found.zone, found.id, found.address) == (ZONE, 42, "203.0.113.5")
    assert (found.machine_type, found.spot) == ("e2-medium", True)
    gce.to("GET", VM, Answer(vm(networkInterfaces=[{}], status="PROVISIONING")))
    found = await client.get(ZONE, "standby-1")
    assert found is not None
    assert found.address is None


@pytest.mark.parametrize(
    ("status", "state", "at_rest"),
    [
        ("PROVISIONING", MachineState.BOOTING, False),
        ("STAGING", MachineState.BOOTING, False),
        ("RUNNING", MachineState.RUNNING, False),
        ("STOPPING", MachineState.STOPPED, False),
        ("TERMINATED", MachineState.STOPPED, True),
        ("SUSPENDED", MachineState.STOPPED, True),
        ("REPAIRING", MachineState.LOST, False),
        ("TELEPORTING", MachineState.UNKNOWN, False),
    ],
)
async def test_a_vm_that_is(
    gce: Answers, client: GceClient, status: str, state: MachineState, at_rest: bool
) -> None:
    gce.to("GET", VM, Answer(vm(status=status)))
    found = await client.get(ZONE, "standby-1")
    assert found is not None
    assert (found.said.state, found.at_rest) == (state, at_rest)


async def test_the_list_covers_all_zones_and_pages(gce: Answers, client: GceClient) -> None:
    empty = {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "none"}}
    gce.to(
        "GET",
        ALL,
        Answer({"items": {"zones/a": {"instances": [vm("one")]}}, "nextPageToken": "t"}),
        Answer({"items": {"zones/b": {"instances": [vm("two")]}, "zones/c": empty}}),
    )
    assert [one.name for one in await client.all()] == ["one", "two"]
    assert "pageToken=t" in gce.asked[1].query


@fault(58)
@pytest.mark.parametrize(
    "answer",
    [
        Answer({"items": {"zones/a": {"warning": {"code": "UNREACHABLE", "message": "no"}}}}),
        Answer({"items": {}, "unreachables": ["zones/a"]}),
        Answer("<html>"),
        refusal(401, "authError", "who are you"),
        refusal(404, "notFound", "The resource 'projects/p' was not found"),
    ],
    ids=["a warning", "an unreachable zone", "HTML", "401", "404"],
)
async def test_a_list_that_lacks_something_is_never_taken_for_complete(
    gce: Answers, client: GceClient, answer: Answer
) -> None:
    gce.to("GET", ALL, answer)
    with pytest.raises(CloudError):
        await client.all()


async def test_a_read_is_made_again_after_a_passing_trouble(
    gce: Answers, client: GceClient
) -> None:
    gce.to("GET", VM, Answer(hang_up=True), refusal(503, "backendError", "later"), Answer(vm()))
    assert await client.get(ZONE, "standby-1") is not None


async def test_a_service_that_nobody_answers_at_is_told_as_such() -> None:
    client = GceClient(project="p", url="http://127.0.0.1:1", poll=0.01)
    with pytest.raises(NoAnswerError):
        await client.all()
    await client.aclose()


async def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch, gce: Answers) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json")
    client = GceClient(project="p", url="https://127.0.0.1:1")
    with pytest.raises(AuthError, match="nonexistent"):
        await client.all()
    await client.aclose()
