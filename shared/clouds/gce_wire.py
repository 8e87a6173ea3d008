"""Google's own client for Compute Engine: synchronous, each call for a thread of its own.

Only ``shared.clouds.gce`` uses it, and imports it when the first call is made: that takes three
seconds of a core, which a service that has to be back at once does not have. Calls are made with a
timeout and without the client's own retries (which go on for ten minutes), and a long-running
operation is looked up by name: the client's own waiting talks to the public host whatever endpoint
it was given.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.api_core import exceptions as refusals
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.cloud import compute_v1 as compute
from google.protobuf import json_format

from shared.clouds.errors import (
    AuthError,
    CloudError,
    NoAnswerError,
    NoCapacityNowError,
    NotFoundError,
    RateLimitedError,
    RefusedError,
    ServerFailedError,
    UnexpectedAnswerError,
    evidence_of,
)
from shared.clouds.gce_answers import Vm, VmSpec

PAGE = 500
API_RATE_PAUSE = 60.0
_NO_RESULTS = "NO_RESULTS_ON_PAGE"
_EXHAUSTED = ("RESOURCE_POOL_EXHAUSTED", "STOCKOUT", "PREEMPTED", "QUOTA_EXCEEDED")


@dataclass(frozen=True, slots=True)
class Operation:
    """A change under way. ``failure`` is what one that is done ended with, None for success."""

    name: str
    done: bool
    failure: CloudError | None = None


class Wire:
    """One project. Every call blocks, and raises CloudError. See GceClient for what each does.

    Signing in may ask the network, too. Raises AuthError.
    """

    def __init__(self, *, project: str, url: str, timeout: float) -> None:
        self._project = project
        self._timeout = timeout
        options: dict[str, Any] = {"client_options": {"api_endpoint": url}}
        if url.startswith("http://"):  # an emulator
            options["credentials"] = AnonymousCredentials()  # type: ignore[no-untyped-call]
        with _sorted("sign-in"):
            self._vms: Any = compute.InstancesClient(**options)
            self._operations: Any = compute.ZoneOperationsClient(**options)

    def close(self) -> None:
        self._vms.transport.close()
        self._operations.transport.close()

    def get(self, zone: str, name: str) -> Vm:
        with _sorted(f"get {name}", names=name):
            return _vm(
                self._vms.get(instance=name, retry=None, **self._in(zone), timeout=self._timeout)
            )

    def all(self) -> list[Vm]:
        request = compute.AggregatedListInstancesRequest(project=self._project, max_results=PAGE)
        with _sorted("list"):
            pager = self._vms.aggregated_list(request=request, retry=None, timeout=self._timeout)
            return [vm for page in pager.pages for vm in _listed(page)]

    def insert(self, zone: str, spec: VmSpec, request_id: UUID) -> Operation:
        request = compute.InsertInstanceRequest(
            instance_resource=_resource(zone, spec), request_id=str(request_id), **self._in(zone)
        )
        with _sorted(f"create {spec.name}"):
            made = self._vms.insert_unary(request=request, timeout=self._timeout)
            return _operation(f"create {spec.name}", made)

    def change(self, verb: str, zone: str, name: str) -> Operation:
        """``verb`` is start, stop or delete."""
        calls = {
            "start": self._vms.start_unary,
            "stop": self._vms.stop_unary,
            "delete": self._vms.delete_unary,
        }
        with _sorted(f"{verb} {name}", names=name):
            made = calls[verb](instance=name, **self._in(zone), timeout=self._timeout)
            return _operation(f"{verb} {name}", made)

    def operation(self, what: str, zone: str, name: str) -> Operation:
        """How far it is. ``what`` it is to do is named in its failure."""
        with _sorted(f"{what}, operation"):
            found = self._operations.get(
                operation=name, retry=None, **self._in(zone), timeout=self._timeout
            )
            return _operation(what, found)

    def _in(self, zone: str) -> dict[str, Any]:
        return {"project": self._project, "zone": zone}


@contextmanager
def _sorted(what: str, names: str = "") -> Iterator[None]:
    """Raise what a call met as the CloudError that it is. ``names``: the VM that a 404 may mean."""
    try:
        yield
    except refusals.GoogleAPICallError as error:
        raise _refusal(what, error, names) from error
    except auth.TransportError as error:
        raise NoAnswerError(f"gce {what}: no answer while signing in") from error
    except auth.GoogleAuthError as error:
        raise AuthError(f"gce {what}: {evidence_of(str(error))}", status=401) from error
    except json_format.Error as error:
        raise UnexpectedAnswerError(
            f"gce {what}: the answer is not the documented JSON",
            status=200,
            evidence=evidence_of(str(error)),
        ) from error
    except OSError as error:  # what the HTTP library raises when the connection fails
        raise NoAnswerError(f"gce {what}: no answer ({type(error).__name__})") from error


def _operation(what: str, operation: Any) -> Operation:
    done = operation.status == compute.Operation.Status.DONE
    return Operation(operation.name, done, _failure(what, operation) if done else None)


def _listed(page: Any) -> Iterator[Vm]:
    if list(page.unreachables):
        raise UnexpectedAnswerError(f"gce list: not reachable: {', '.join(page.unreachables)}")
    for scope, scoped in page.items.items():
        code = scoped.warning.code
        if code and code != _NO_RESULTS:
            raise UnexpectedAnswerError(f"gce list: {scope} left out: {code}")
        for instance in scoped.instances:
            yield _vm(instance)


def _vm(instance: Any) -> Vm:
    addresses = [
        config.nat_i_p
        for interface in instance.network_interfaces
        for config in interface.access_configs
        if config.nat_i_p
    ]
    return Vm(
        name=instance.name,
        zone=instance.zone.rsplit("/", 1)[-1],
        id=int(instance.id),
        status=instance.status,
        address=addresses[0] if addresses else None,
        machine_type=instance.machine_type.rsplit("/", 1)[-1],
        spot=instance.scheduling.provisioning_model == "SPOT",
        labels=dict(instance.labels),
    )


def _resource(zone: str, spec: VmSpec) -> Any:
    return compute.Instance(
        name=spec.name,
        machine_type=f"zones/{zone}/machineTypes/{spec.machine_type}",
        disks=[
            compute.AttachedDisk(
                boot=True,
                auto_delete=True,
                initialize_params=compute.AttachedDiskInitializeParams(
                    source_image=spec.image,
                    disk_type=f"zones/{zone}/diskTypes/pd-balanced",
                    disk_size_gb=spec.disk_gb,
                ),
            )
        ],
        network_interfaces=[
            compute.NetworkInterface(
                network="global/networks/default",
                access_configs=[compute.AccessConfig(name="External NAT", type_="ONE_TO_ONE_NAT")],
            )
        ],
        scheduling=_scheduling(spec.spot),
        metadata=compute.Metadata(
            items=[compute.Items(key=key, value=value) for key, value in spec.metadata.items()]
        ),
        labels=spec.labels,
        tags=compute.Tags(items=list(spec.tags)),
    )


def _scheduling(spot: bool) -> Any:
    if not spot:
        return compute.Scheduling(provisioning_model="STANDARD", automatic_restart=True)
    return compute.Scheduling(
        provisioning_model="SPOT",
        instance_termination_action="STOP",
        on_host_maintenance="TERMINATE",
        automatic_restart=False,
    )


def _failure(what: str, operation: Any) -> CloudError | None:
    """A failed operation is DONE with an error inside; nothing else says so."""
    errors = list(operation.error.errors)
    if not errors:
        return None
    code, message = errors[0].code, evidence_of(errors[0].message)
    exhausted = any(word in code for word in _EXHAUSTED)
    error = NoCapacityNowError if exhausted else RefusedError
    return error(f"gce {what}: {code}: {message}", code=code)


def _refusal(what: str, error: refusals.GoogleAPICallError, names: str) -> CloudError:
    status = int(error.code or 0)
    details = [detail for detail in error.errors if isinstance(detail, dict)]
    code = str(details[0].get("reason", "")) if details else ""
    # Google's client puts the request before the answer: long, and the same each time.
    message = evidence_of(re.sub(r"^[A-Z]+ https?://\S+: ", "", str(error.message)))
    reason = f"gce {what}: {status} {code}".rstrip() + f": {message}"
    if status == 429 or code == "rateLimitExceeded":
        return RateLimitedError(reason, retry_after=API_RATE_PAUSE, code=code)
    if code == "quotaExceeded":
        return NoCapacityNowError(reason, code=code, status=status)
    if status in (401, 403):
        return AuthError(reason, code=code, status=status)
    if status == 404 and names and f"/instances/{names}'" in str(error.message):
        return NotFoundError(reason, code=code, status=status)
    if status >= 500:
        return ServerFailedError(reason, code=code, status=status)
    return RefusedError(reason, code=code or str(status), status=status)
