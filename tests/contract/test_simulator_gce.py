"""The simulated Compute Engine satisfies the official client, which is all that drives it here."""

import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import compute_v1

from tests.support.simulator import Simulator, simulator
from tests.support.waiting import eventually

ZONE = "europe-west1-b"
Status = compute_v1.Operation.Status
_names = (f"standby-{n}" for n in itertools.count())


class Cloud:
    """The official client with the project and the zone filled in."""

    def __init__(self, clouds: Simulator) -> None:
        options = {"api_endpoint": clouds.gce_url}
        anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]
        self.vms: Any = compute_v1.InstancesClient(credentials=anonymous, client_options=options)
        self.ops: Any = compute_v1.ZoneOperationsClient(
            credentials=anonymous, client_options=options
        )
        self.place: dict[str, Any] = {"project": clouds.project, "zone": ZONE}

    def insert(self, vm: Any, request_id: str = "") -> Any:
        request = compute_v1.InsertInstanceRequest(
            **self.place, instance_resource=vm, request_id=request_id or str(uuid.uuid4())
        )
        return self.vms.insert_unary(request=request, timeout=20)

    def get(self, name: str) -> Any:
        return self.vms.get(**self.place, instance=name, retry=None, timeout=20)

    def act(self, verb: str, name: str) -> Any:
        """start, stop or delete, and the operation when it is done."""
        operation = getattr(self.vms, f"{verb}_unary")(**self.place, instance=name, timeout=20)
        return self.done(operation)

    def done(self, operation: Any) -> Any:
        while operation.status != Status.DONE:
            operation = self.ops.wait(**self.place, operation=operation.name, timeout=150)
        return operation

    def names(self, wanted: str = "", most: int = 500) -> list[str]:
        request = compute_v1.ListInstancesRequest(**self.place, filter=wanted, max_results=most)
        return sorted(vm.name for vm in self.vms.list(request=request, timeout=20))

    def operations(self, kind: str) -> list[Any]:
        request = compute_v1.ListZoneOperationsRequest(
            **self.place, filter=f'operationType="{kind}"'
        )
        return list(self.ops.list(request=request, timeout=20))


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("clouds"), boot_seconds=0.05) as running:
        yield running


@pytest.fixture(scope="module")
def cloud(clouds: Simulator) -> Cloud:
    return Cloud(clouds)


@pytest.fixture(autouse=True)
def no_faults_left(clouds: Simulator) -> Iterator[None]:
    yield
    clouds.control.delete("/faults")


def spot_vm(called: str, /, **changes: Any) -> Any:
    parameters = compute_v1.AttachedDiskInitializeParams(
        source_image="projects/debian-cloud/global/images/family/debian-12",
        disk_type=f"zones/{ZONE}/diskTypes/pd-standard",
        disk_size_gb=10,
    )
    access = compute_v1.AccessConfig(name="External NAT", type_="ONE_TO_ONE_NAT")
    scheduling = compute_v1.Scheduling(
        provisioning_model="SPOT",
        instance_termination_action="STOP",
        on_host_maintenance="TERMINATE",
        automatic_restart=False,
    )
    fields = {
        "name": called,
        "machine_type": f"zones/{ZONE}/machineTypes/e2-small",
        "disks": [
            compute_v1.AttachedDisk(boot=True, auto_delete=True, initialize_params=parameters)
        ],
        "network_interfaces": [
            compute_v1.NetworkInterface(network="global/networks/default", access_configs=[access])
        ],
        "scheduling": scheduling,
        "labels": {"app": "failover"},
    }
    return compute_v1.Instance(**fields | changes)


@pytest.fixture
def name(cloud: Cloud) -> str:
    """A Spot machine that runs."""
    name = next(_names)
    assert not cloud.done(cloud.insert(spot_vm(name))).error.errors
    return name


def address(vm: Any) -> str:
    return str(vm.network_interfaces[0].access_configs[0].nat_i_p)


def test_a_machine_is_seen_at_once_and_has_an_address_when_it_runs(cloud: Cloud) -> None:
    name = next(_names)
    operation = cloud.insert(spot_vm(name))
    first = cloud.get(name)
    assert first.status in ("PROVISIONING", "STAGING")
    assert not address(first)
    assert not cloud.done(operation).error.errors
    vm = cloud.get(name)
    assert vm.status == "RUNNING"
    assert address(vm).startswith("127.77.")
    assert vm.id == first.id
    assert vm.machine_type.endswith(f"zones/{ZONE}/machineTypes/e2-small")


def test_the_same_request_id_does_it_once(cloud: Cloud) -> None:
    name, request_id = next(_names), str(uuid.uuid4())
    first = cloud.insert(spot_vm(name), request_id)
    assert cloud.insert(spot_vm(name), request_id).name == first.name
    cloud.done(first)
    with pytest.raises(exceptions.Conflict) as refusal:
        cloud.insert(spot_vm(name))
    assert refusal.value.errors[0]["reason"] == "alreadyExists"


def test_stop_keeps_the_disk_and_start_gives_a_new_address(
    cloud: Cloud, clouds: Simulator, name: str
) -> None:
    before = address(cloud.get(name))
    clouds.write(name, "/var/lib/kept", b"still here")
    cloud.act("stop", name)
    stopped = cloud.get(name)
    assert (stopped.status, address(stopped)) == ("TERMINATED", "")
    cloud.act("start", name)
    again = cloud.get(name)
    assert again.status == "RUNNING"
    assert address(again) not in ("", before)
    assert clouds.read(name, "/var/lib/kept") == b"still here"


def test_delete_ends_in_not_found(cloud: Cloud, name: str) -> None:
    cloud.act("delete", name)
    with pytest.raises(exceptions.NotFound) as refusal:
        cloud.get(name)
    assert refusal.value.errors[0]["reason"] == "notFound"


def test_lists_filter_and_page(cloud: Cloud, clouds: Simulator) -> None:
    names = sorted(next(_names) for _ in range(3))
    for operation in [cloud.insert(spot_vm(n, labels={"set": "paged"})) for n in names]:
        cloud.done(operation)
    assert cloud.names("labels.set=paged AND status=RUNNING") == names
    assert cloud.names("(labels.set = paged) (name = nobody)") == []
    assert cloud.names("labels.set=paged", most=2) == names
    everywhere = dict(cloud.vms.aggregated_list(project=clouds.project))
    found = {vm.name for vm in everywhere[f"zones/{ZONE}"].instances}
    assert set(names) <= found
    with pytest.raises(exceptions.BadRequest):
        cloud.names("what?!")


def test_metadata_is_replaced_only_with_the_fingerprint_just_read(
    cloud: Cloud, clouds: Simulator, name: str
) -> None:
    metadata = cloud.get(name).metadata
    stale = metadata.fingerprint
    metadata.items = [compute_v1.Items(key="ssh-keys", value="ops:ssh-ed25519 AAAA ops")]
    request = {**cloud.place, "instance": name, "metadata_resource": metadata}
    cloud.done(cloud.vms.set_metadata_unary(**request))
    assert clouds.read(name, "/home/ops/.ssh/authorized_keys") == b"ssh-ed25519 AAAA ops\n"
    metadata.fingerprint = stale
    with pytest.raises(exceptions.PreconditionFailed):
        cloud.vms.set_metadata_unary(**request)


def test_preemption_stops_it_and_leaves_an_operation_as_proof(
    cloud: Cloud, clouds: Simulator, name: str
) -> None:
    clouds.happen(name, "preempt")
    assert cloud.get(name).status == "TERMINATED"
    (proof,) = [
        one
        for one in cloud.operations("compute.instances.preempted")
        if one.target_link.endswith(f"/{name}")
    ]
    assert proof.user == "system"
    assert not cloud.act("start", name).error.errors
    assert cloud.get(name).status == "RUNNING"


def test_a_spot_machine_that_asked_for_it_is_deleted_by_preemption(
    cloud: Cloud, clouds: Simulator
) -> None:
    name = next(_names)
    vm = spot_vm(name)
    vm.scheduling.instance_termination_action = "DELETE"
    cloud.done(cloud.insert(vm))
    cloud.vms.simulate_maintenance_event_unary(**cloud.place, instance=name)
    eventually(lambda: name not in cloud.names())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Not-A-Name"),
        ("machine_type", "zones/elsewhere/machineTypes/e2-small"),
        ("scheduling", compute_v1.Scheduling(provisioning_model="SPOT")),
        ("disks", []),
        ("labels", {"App": "Failover"}),
    ],
)
def test_a_machine_that_is_not_valid_is_refused_at_once(
    cloud: Cloud, field: str, value: Any
) -> None:
    with pytest.raises(exceptions.BadRequest):
        cloud.insert(spot_vm(next(_names), **{field: value}))


def test_a_stock_out_is_an_operation_that_is_done_with_an_error(
    cloud: Cloud, clouds: Simulator, name: str
) -> None:
    clouds.fault("operation-error", operation="insert", code="ZONE_RESOURCE_POOL_EXHAUSTED")
    refused = next(_names)
    operation = cloud.done(cloud.insert(spot_vm(refused)))
    assert operation.error.errors[0].code == "ZONE_RESOURCE_POOL_EXHAUSTED"
    with pytest.raises(exceptions.NotFound):
        cloud.get(refused)
    cloud.act("stop", name)
    clouds.fault("operation-error", operation="start")
    assert "EXHAUSTED" in cloud.act("start", name).error.errors[0].code
    assert cloud.get(name).status == "TERMINATED"


def test_a_wait_may_return_before_the_end(cloud: Cloud, clouds: Simulator) -> None:
    clouds.fault("wait-returns-running")
    operation = cloud.insert(spot_vm(next(_names)))
    early = cloud.ops.wait(**cloud.place, operation=operation.name, timeout=20)
    assert early.status == Status.RUNNING
    cloud.done(early)


def test_an_answer_can_be_lost_after_the_insert(cloud: Cloud, clouds: Simulator) -> None:
    name, request_id = next(_names), str(uuid.uuid4())
    clouds.fault("create-answer-lost", provider="gce")
    with pytest.raises(requests.exceptions.ConnectionError):
        cloud.insert(spot_vm(name), request_id)
    assert not cloud.done(cloud.insert(spot_vm(name), request_id)).error.errors


def test_errors_ordered_at_the_control_port_reach_the_client(
    cloud: Cloud, clouds: Simulator
) -> None:
    body = {
        "error": {
            "code": 403,
            "message": "Rate Limit Exceeded",
            "errors": [{"reason": "rateLimitExceeded", "message": "slow down"}],
        }
    }
    clouds.fault("http-error", provider="gce", method="GET", status=403, body=body, count=1)
    with pytest.raises(exceptions.Forbidden) as refusal:
        cloud.names()
    assert refusal.value.errors[0]["reason"] == "rateLimitExceeded"


def test_another_project_is_not_found(cloud: Cloud) -> None:
    with pytest.raises(exceptions.NotFound):
        cloud.vms.get(project="another", zone=ZONE, instance="x", retry=None)
