"""The Compute Engine API on the wire. No policy here.

Google's client is synchronous: each call runs in a thread, with a timeout and without the
client's own retries (which go on for ten minutes). Long-running operations are polled by name:
the client's own waiting talks to the public host whatever endpoint it was given.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from google.api_core import exceptions as refusals
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.cloud import compute_v1 as compute
from google.protobuf import json_format

from shared.clouds.calls import Pace, read
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
from shared.clouds.states import MachineState, Said

T = TypeVar("T")

PUBLIC_URL = "https://compute.googleapis.com"
PAGE = 500
API_RATE_PAUSE = 60.0
_STATES = {
    "PENDING": MachineState.BOOTING,
    "PROVISIONING": MachineState.BOOTING,
    "STAGING": MachineState.BOOTING,
    "RUNNING": MachineState.RUNNING,
    "REPAIRING": MachineState.LOST,
    "PENDING_STOP": MachineState.STOPPED,
    "STOPPING": MachineState.STOPPED,
    "STOPPED": MachineState.STOPPED,
    "TERMINATED": MachineState.STOPPED,
    "SUSPENDING": MachineState.STOPPED,
    "SUSPENDED": MachineState.STOPPED,
    "DEPROVISIONING": MachineState.STOPPED,
}
_AT_REST = frozenset({"TERMINATED", "STOPPED", "SUSPENDED"})
_NO_RESULTS = "NO_RESULTS_ON_PAGE"
_EXHAUSTED = ("RESOURCE_POOL_EXHAUSTED", "STOCKOUT", "PREEMPTED", "QUOTA_EXCEEDED")


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """A VM to create. ``metadata`` may hold ``startup-script``, run as root on every boot."""

    name: str
    machine_type: str
    disk_gb: int
    spot: bool
    image: str
    labels: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM as the service shows it. ``address`` is its external one, None until it has one."""

    name: str
    zone: str
    id: int
    status: str
    address: str | None
    machine_type: str
    spot: bool
    labels: dict[str, str]

    @property
    def said(self) -> Said:
        state = _STATES.get(self.status, MachineState.UNKNOWN)
        return Said(state, self.status.lower().replace("_", " ")[:40])

    @property
    def at_rest(self) -> bool:
        return self.status in _AT_REST


@dataclass(frozen=True, slots=True)
class _Clients:
    vms: Any
    operations: Any


class GceClient:
    """One project. Every call raises CloudError; those that change something are not repeated.

    A plain ``http://`` URL is an emulator and gets no credentials; otherwise the application
    default credentials are used. ``timeout`` is in seconds for one request, ``poll`` the pause
    between looks at an operation. ``may_change`` is asked right before each call that changes
    something, in that call's thread, and may raise.
    """

    def __init__(
        self,
        *,
        project: str,
        url: str = PUBLIC_URL,
        timeout: float = 20.0,
        poll: float = 1.0,
        may_change: Callable[[], object] = lambda: None,
    ) -> None:
        self._project = project
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._may_change = may_change
        self.poll = poll
        self._pace = Pace({}, scale=min(1.0, poll))
        self._clients: _Clients | None = None
        self._making = threading.Lock()

    async def aclose(self) -> None:
        if self._clients is not None:
            self._clients.vms.transport.close()
            self._clients.operations.transport.close()

    # --- reading ------------------------------------------------------------------------

    async def get(self, zone: str, name: str) -> Vm | None:
        """One VM; None when the service says by name that it does not exist."""

        def call(clients: _Clients) -> Vm:
            return _vm(
                clients.vms.get(
                    project=self._project,
                    zone=zone,
                    instance=name,
                    retry=None,
                    timeout=self._timeout,
                )
            )

        try:
            return await self._read(f"get {name}", call, names=name)
        except NotFoundError:
            return None

    async def all(self) -> list[Vm]:
        """Every VM of the project, all zones and pages.

        Raises UnexpectedAnswerError when the service left a zone out.
        """

        def call(clients: _Clients) -> list[Vm]:
            request = compute.AggregatedListInstancesRequest(
                project=self._project, max_results=PAGE
            )
            pager = clients.vms.aggregated_list(request=request, retry=None, timeout=self._timeout)
            return [vm for page in pager.pages for vm in _listed(page)]

        return await self._read("list", call)

    # --- changing -----------------------------------------------------------------------

    async def insert(self, zone: str, spec: VmSpec, *, request_id: UUID, within: float) -> None:
        """Create a VM and wait, at most ``within`` seconds, until the service has done so.

        The same ``request_id`` again is the same creation. Raises NoCapacityNowError,
        RefusedError with code ``alreadyExists``, and NoAnswerError when it is still at it.
        """
        await self._change(
            f"create {spec.name}",
            zone,
            lambda clients: clients.vms.insert_unary(
                request=compute.InsertInstanceRequest(
                    project=self._project,
                    zone=zone,
                    instance_resource=_resource(zone, spec),
                    request_id=str(request_id),
                ),
                timeout=self._timeout,
            ),
            within=within,
        )

    async def start(self, zone: str, name: str, *, within: float) -> None:
        """Start a stopped VM and wait for it. Raises as ``insert``; NotFoundError."""
        await self._change(
            f"start {name}",
            zone,
            lambda clients: clients.vms.start_unary(
                project=self._project, zone=zone, instance=name, timeout=self._timeout
            ),
            names=name,
            within=within,
        )

    async def stop(self, zone: str, name: str, *, within: float) -> None:
        """Stop a VM and wait for it; its disk stays and is billed. Raises NotFoundError."""
        await self._change(
            f"stop {name}",
            zone,
            lambda clients: clients.vms.stop_unary(
                project=self._project, zone=zone, instance=name, timeout=self._timeout
            ),
            names=name,
            within=within,
        )

    async def delete(self, zone: str, name: str, *, within: float) -> None:
        """Delete a VM and wait for it. Raises NotFoundError when it is gone already."""
        await self._change(
            f"delete {name}",
            zone,
            lambda clients: clients.vms.delete_unary(
                project=self._project, zone=zone, instance=name, timeout=self._timeout
            ),
            names=name,
            within=within,
        )

    # --- the wire -----------------------------------------------------------------------

    async def _change(
        self,
        what: str,
        zone: str,
        call: Callable[[_Clients], Any],
        *,
        within: float,
        names: str = "",
    ) -> None:
        """Ask for a change and wait, at most ``within`` seconds, for its end."""

        def permitted(clients: _Clients) -> Any:
            self._may_change()  # after the wait for a thread and for credentials
            return call(clients)

        operation = await self._call(what, permitted, names=names)
        try:
            async with asyncio.timeout(within):
                while operation.status != compute.Operation.Status.DONE:
                    await asyncio.sleep(self.poll)
                    operation = await self._operation(what, zone, operation.name)
        except TimeoutError:
            raise NoAnswerError(f"gce {what}: not done after {within:g} s") from None
        _raise_if_failed(what, operation)

    async def _operation(self, what: str, zone: str, name: str) -> Any:
        return await self._read(
            f"{what}, operation",
            lambda clients: clients.operations.get(
                project=self._project, zone=zone, operation=name, retry=None, timeout=self._timeout
            ),
        )

    async def _read(self, what: str, call: Callable[[_Clients], T], *, names: str = "") -> T:
        return await read(lambda: self._call(what, call, names=names), self._pace)

    async def _call(self, what: str, call: Callable[[_Clients], T], *, names: str = "") -> T:
        """Make one call in a thread. ``names``: the VM whose absence a 404 may be about."""
        if not self._project:
            raise AuthError("gce: no project is set (DUMONT_GCE_PROJECT)")
        try:
            return await asyncio.to_thread(lambda: call(self._connected()))
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

    def _connected(self) -> _Clients:
        """Made on first use, in a thread: looking for credentials may ask the network."""
        with self._making:
            if self._clients is None:
                emulator = self._url.startswith("http://")
                options: dict[str, Any] = {"client_options": {"api_endpoint": self._url}}
                if emulator:
                    options["credentials"] = AnonymousCredentials()  # type: ignore[no-untyped-call]
                self._clients = _Clients(
                    vms=compute.InstancesClient(**options),
                    operations=compute.ZoneOperationsClient(**options),
                )
            return self._clients


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


def _raise_if_failed(what: str, operation: Any) -> None:
    """A failed operation is DONE with an error inside; nothing else says so."""
    errors = list(operation.error.errors)
    if not errors:
        return
    code, message = errors[0].code, evidence_of(errors[0].message)
    exhausted = any(word in code for word in _EXHAUSTED)
    error = NoCapacityNowError if exhausted else RefusedError
    raise error(f"gce {what}: {code}: {message}", code=code)


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
