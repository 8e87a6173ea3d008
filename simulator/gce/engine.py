"""Virtual machines at work: inserted, started, stopped, preempted, deleted.

Every change answers at once with an operation and goes on in the background. A machine's status
changes here alone, together with its power and its account in the ledger.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from simulator import image, tree
from simulator.faults import Faults
from simulator.gce.errors import EngineError, not_found, operation_failure
from simulator.gce.operations import Json, Operation, Operations, timestamp
from simulator.gce.requests import check_insert, check_labels, metadata_items, ssh_keys
from simulator.gce.rows import fingerprint, instance_row, metadata, set_nat_ip
from simulator.ledger import Account, Cause, Ledger
from simulator.machine import BootError, Machine
from simulator.network import Network, NoAddressError
from simulator.options import Options

PROVIDER = "gce"
_USD_PER_HOUR = {"e2-micro": 0.0084, "e2-small": 0.0168, "e2-medium": 0.0335}
_SPOT_SHARE = 0.4
_DISK_USD_PER_GB_HOUR = 0.04 / 730


@dataclass(slots=True, kw_only=True)
class Vm:
    """One virtual machine; ``row`` is what the API shows."""

    id: str
    name: str
    zone: str
    row: Json
    machine: Machine
    created_at: float
    usd_per_hour: float
    address: str | None = None
    work: asyncio.Task[None] | None = None

    @property
    def status(self) -> str:
        """The API's word for its state."""
        return str(self.row["status"])

    @status.setter
    def status(self, value: str) -> None:
        self.row["status"] = value

    @property
    def metadata(self) -> dict[str, str]:
        """Its metadata items."""
        return metadata_items(self.row["metadata"])

    @property
    def spot(self) -> bool:
        """Whether it can be preempted."""
        return bool(self.row["scheduling"].get("provisioningModel") == "SPOT")


class Engine:
    """All virtual machines of the one simulated project."""

    def __init__(
        self,
        *,
        project: str,
        options: Options,
        network: Network,
        ledger: Ledger,
        faults: Faults,
        clock: Callable[[], float],
    ) -> None:
        self.project = project
        self.vms: dict[tuple[str, str], Vm] = {}
        self.operations = Operations(project, clock)
        self._options = options
        self._network = network
        self._ledger = ledger
        self._faults = faults
        self._clock = clock

    # Reading

    def path(self, zone: str, name: str) -> str:
        """A machine's name in error messages."""
        return f"projects/{self.project}/zones/{zone}/instances/{name}"

    def get(self, zone: str, name: str) -> Vm:
        """The machine of this name. Raises EngineError 404."""
        vm = self.vms.get((zone, name))
        if vm is None:
            raise not_found(self.path(zone, name))
        return vm

    def visible(self) -> list[Vm]:
        """Those that a list shows now: not the newest when lists lag, none when they lie."""
        if self._faults.take("list-empty", provider=PROVIDER):
            return []
        lag = self._faults.peek("list-lag", provider=PROVIDER)
        oldest = self._clock() - (lag.seconds() if lag else 0.0)
        return [vm for vm in self.vms.values() if vm.created_at <= oldest]

    # What the tenant does

    def insert(self, zone: str, body: Json) -> Operation:
        """Create a machine and start it. Raises EngineError."""
        check_insert(body, zone)
        name = str(body["name"])
        if (zone, name) in self.vms:
            text = f"The resource '{self.path(zone, name)}' already exists"
            raise EngineError(409, "alreadyExists", text)
        vm = self._new(zone, name, body)
        self.vms[zone, name] = vm
        operation = self._begin("insert", vm)
        self._work(vm, operation, lambda: self._insert(vm, operation))
        return operation

    def start(self, vm: Vm) -> Operation:
        """Power it on. Raises EngineError while it is stopping."""
        if vm.status in ("STOPPING", "PENDING_STOP"):
            text = f"The resource '{self.path(vm.zone, vm.name)}' is not ready"
            raise EngineError(400, "resourceNotReady", text)
        operation = self._begin("start", vm)
        if vm.status == "TERMINATED":
            vm.status = "PROVISIONING"
            self._work(vm, operation, lambda: self._start(vm, operation))
        else:
            self.operations.finish(operation)
        return operation

    def stop(self, vm: Vm) -> Operation:
        """Power it off; its disk stays."""
        operation = self._begin("stop", vm)
        if vm.status == "TERMINATED":
            self.operations.finish(operation)
        else:
            self._work(vm, operation, lambda: self._stop(vm, operation))
        return operation

    def reset(self, vm: Vm) -> Operation:
        """Take its power and give it back."""
        operation = self._begin("reset", vm)
        self._work(vm, operation, lambda: self._reset(vm, operation))
        return operation

    def delete(self, vm: Vm) -> Operation:
        """End it, with its disk."""
        operation = self._begin("delete", vm)
        if self._faults.take("destroy-lies", provider=PROVIDER):
            self.operations.finish(operation)
        else:
            self._work(vm, operation, lambda: self._delete(vm, operation))
        return operation

    def set_metadata(self, vm: Vm, body: Json) -> Operation:
        """Replace all items; keys of people reach a running machine too. Raises EngineError."""
        self._check_fingerprint(body, "fingerprint", vm.row["metadata"]["fingerprint"])
        items = metadata_items(body)
        vm.row["metadata"] = metadata(items)
        operation = self._begin("setMetadata", vm)
        self._let_people_in(vm)
        self.operations.finish(operation)
        return operation

    def set_labels(self, vm: Vm, body: Json) -> Operation:
        """Replace all labels. Raises EngineError."""
        self._check_fingerprint(body, "labelFingerprint", vm.row["labelFingerprint"])
        labels = dict(body.get("labels") or {})
        check_labels(labels)
        vm.row |= {"labels": labels, "labelFingerprint": fingerprint(labels)}
        operation = self._begin("setLabels", vm)
        self.operations.finish(operation)
        return operation

    def simulate_maintenance(self, vm: Vm) -> Operation:
        """Rehearse a maintenance event: a Spot machine is preempted. Raises EngineError."""
        operation = self._begin("simulateMaintenanceEvent", vm)
        if vm.spot:
            self._work(vm, None, lambda: self.preempt(vm))
        self.operations.finish(operation)
        return operation

    def _check_fingerprint(self, body: Json, field: str, current: str) -> None:
        if body.get(field) != current:
            text = "Supplied fingerprint does not match current fingerprint."
            raise EngineError(412, "conditionNotMet", text)

    # What the service does

    async def preempt(self, vm: Vm) -> None:
        """Take a Spot machine away; at its end it is stopped or deleted, as it asked for."""
        if not vm.spot:
            raise EngineError(400, "invalid", "only a Spot machine can be preempted")
        text = "Instance was preempted."
        self._happened("compute.instances.preempted", vm, text)
        await self._power_off(vm, "STOPPING")
        if vm.row["scheduling"].get("instanceTerminationAction") == "DELETE":
            await self._remove(vm)
        else:
            vm.status = "TERMINATED"

    async def lose(self, vm: Vm) -> None:
        """Its host fails: under repair when it restarts by itself, else stopped."""
        self._happened("compute.instances.hostError", vm, "Instance terminated by host error.")
        restarts = vm.row["scheduling"].get("automaticRestart", True) and not vm.spot
        await self._power_off(vm, "REPAIRING" if restarts else "TERMINATED")

    def resume(self, vm: Vm) -> None:
        """The service starts it by itself."""
        if vm.machine.running or vm.status in ("PROVISIONING", "STAGING"):
            return
        self._work(vm, None, lambda: self._come_up(vm, "market_resumed"))

    async def reboot(self, vm: Vm) -> None:
        """Restart it where it is."""
        await vm.machine.halt()
        await self._power_on(vm)

    def _happened(self, kind: str, vm: Vm, text: str) -> None:
        self.operations.happened(kind, zone=vm.zone, target=vm.name, target_id=vm.id, text=text)

    async def close(self) -> None:
        """Stop everything, for the end of the simulator."""
        for vm in list(self.vms.values()):
            await self._power_off(vm, "TERMINATED")

    # How it is done

    def _new(self, zone: str, name: str, body: Json) -> Vm:
        now, id = self._clock(), str(4_200_000_000_000_000_000 + secrets.randbits(50))
        directory = Path(self._options.directory, "machines", f"{PROVIDER}-{id}")
        row = instance_row(self.project, zone, id, body, timestamp(now))
        spot = row["scheduling"].get("provisioningModel") == "SPOT"
        kind = str(body["machineType"]).rsplit("/", 1)[-1]
        vm = Vm(
            id=id,
            name=name,
            zone=zone,
            row=row,
            machine=Machine(name, directory, ended=lambda: self._guest_ended(zone, name)),
            created_at=now,
            usd_per_hour=_USD_PER_HOUR.get(kind, 0.067) * (_SPOT_SHARE if spot else 1.0),
        )
        gigabytes = sum(float(disk["diskSizeGb"]) for disk in row["disks"])
        self._ledger.create(
            Account(
                provider=PROVIDER,
                id=id,
                label=name,
                kind="standby",
                created_at=now,
                storage_usd_per_hour=gigabytes * _DISK_USD_PER_GB_HOUR,
            )
        )
        return vm

    def _begin(self, kind: str, vm: Vm) -> Operation:
        return self.operations.begin(kind, zone=vm.zone, target=vm.name, target_id=vm.id)

    def _work(self, vm: Vm, operation: Operation | None, do: Callable[[], Awaitable[None]]) -> None:
        """Do it in the background; what was under way for this machine ends first, unfinished."""
        before = vm.work

        async def instead() -> None:
            try:
                await _cancel(before)
                await do()
            except asyncio.CancelledError:
                if operation is not None and not operation.done.is_set():
                    self.operations.finish(operation, operation_failure("PREEMPTED", vm.zone))
                raise

        vm.work = asyncio.create_task(instead())

    def _failure(self, operation: Operation) -> Json | None:
        kind = str(operation.row["operationType"])
        fault = self._faults.take("operation-error", operation=kind, zone=operation.zone)
        if fault is None:
            return None
        code = str(fault.details.get("code", "ZONE_RESOURCE_POOL_EXHAUSTED"))
        return operation_failure(code, operation.zone, str(fault.details.get("message", "")))

    async def _insert(self, vm: Vm, operation: Operation) -> None:
        failure = self._failure(operation)
        if failure is not None:
            await asyncio.sleep(self._options.boot_seconds * 0.2)
            await self._remove(vm)
            self.operations.finish(operation, failure)
            return
        await vm.machine.build(root_login="no")
        await self._come_up(vm, "rented", operation)

    async def _start(self, vm: Vm, operation: Operation) -> None:
        failure = self._failure(operation)
        if failure is not None:
            vm.status = "TERMINATED"
            self.operations.finish(operation, failure)
            return
        await self._come_up(vm, "rented", operation)

    async def _come_up(self, vm: Vm, cause: Cause, operation: Operation | None = None) -> None:
        """PROVISIONING, STAGING, RUNNING; the operation ends with it."""
        slower = self._faults.take("boot-delay", provider=PROVIDER)
        seconds = self._options.boot_seconds + (slower.seconds() if slower else 0.0)
        vm.status = "PROVISIONING"
        await asyncio.sleep(seconds * 0.3)
        vm.status = "STAGING"
        await asyncio.sleep(seconds * 0.7)
        failure = None
        try:
            vm.address = await self._network.take(port=self._options.gce_ssh_port)
            await self._power_on(vm)
        except (BootError, NoAddressError, OSError) as error:
            failure = operation_failure("INTERNAL_ERROR", vm.zone, str(error))
            vm.status = "TERMINATED"
        else:
            now = self._clock()
            vm.status = "RUNNING"
            vm.row["lastStartTimestamp"] = timestamp(now)
            set_nat_ip(vm.row, vm.address)
            self._ledger.run(PROVIDER, vm.id, at=now, cause=cause, usd_per_hour=vm.usd_per_hour)
        if operation is not None:
            self.operations.finish(operation, failure)

    async def _power_on(self, vm: Vm) -> None:
        assert vm.address is not None
        self._let_people_in(vm)
        script = vm.metadata.get("startup-script")
        if script:
            tree.write(vm.machine.root, "/var/lib/google/startup-script", script.encode())
            tree.resolve(vm.machine.root, "/var/lib/google/startup-script").chmod(0o755)
        await vm.machine.boot(
            address=vm.address,
            port=self._options.gce_ssh_port,
            environment={},
            script="/var/lib/google/startup-script" if script else None,
        )

    def _let_people_in(self, vm: Vm) -> None:
        """What the guest agent does with the ``ssh-keys`` of the metadata."""
        if not vm.machine.root.exists():
            return
        for user, keys in ssh_keys(vm.metadata).items():
            image.add_user(vm.machine.root, user)
            image.authorize(vm.machine.root, user, keys)

    async def _power_off(self, vm: Vm, status: str) -> None:
        """No power, no address and no bill, whatever it was doing."""
        if vm.work is not asyncio.current_task():
            await _cancel(vm.work)
        await vm.machine.halt()
        vm.status = status
        self._ledger.halt(PROVIDER, vm.id, at=self._clock())
        set_nat_ip(vm.row, None)
        address, vm.address = vm.address, None
        if address is not None:
            await self._network.give_back(address)

    async def _stop(self, vm: Vm, operation: Operation) -> None:
        vm.status = "STOPPING"
        await asyncio.sleep(self._options.stop_seconds)
        await self._power_off(vm, "TERMINATED")
        self.operations.finish(operation)

    async def _reset(self, vm: Vm, operation: Operation) -> None:
        if vm.machine.running:
            await self.reboot(vm)
        self.operations.finish(operation)

    async def _delete(self, vm: Vm, operation: Operation) -> None:
        vm.status = "STOPPING"
        await asyncio.sleep(self._options.stop_seconds)
        await self._power_off(vm, "STOPPING")
        await self._remove(vm)
        self.operations.finish(operation)

    async def _remove(self, vm: Vm) -> None:
        self.vms.pop((vm.zone, vm.name), None)
        self._ledger.destroy(PROVIDER, vm.id, at=self._clock())
        await vm.machine.remove()

    def _guest_ended(self, zone: str, name: str) -> None:
        vm = self.vms.get((zone, name))
        if vm is not None:
            text = "Instance terminated by guest OS shutdown."
            self._happened("compute.instances.guestTerminate", vm, text)
            vm.work = asyncio.create_task(self._power_off(vm, "TERMINATED"))


async def _cancel(work: "asyncio.Task[None] | None") -> None:
    """End a task that may be done already, and wait until it is."""
    if work is not None and not work.done():
        work.cancel()
        await asyncio.wait([work])
