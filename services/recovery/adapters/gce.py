"""Standbys from Compute Engine: one VM for each label, in the first zone that has room.

The label is the VM's name, which is unique in its zone, and the request id is made from label
and zone: to ask the same zone again is always safe. Only going on to another zone is not, and
that happens on the service's word alone.
"""

import asyncio
import shlex
from collections.abc import Awaitable, Sequence
from http import HTTPStatus
from typing import TypeVar
from uuid import NAMESPACE_URL, uuid5

from services.recovery.ports import (
    CredentialError,
    NoCapacityError,
    Order,
    OutcomeUnknownError,
    ProviderError,
    Rental,
    RentalStatus,
)
from shared import failpoints
from shared.clouds.errors import (
    AuthError,
    CloudError,
    NoCapacityNowError,
    NotFoundError,
    RateLimitedError,
    UncertainError,
)
from shared.clouds.gce_answers import Vm, VmSpec
from shared.clouds.port import Gce
from shared.clouds.states import MachineState
from shared.machines import MachineId

T = TypeVar("T")

IMAGE = "projects/debian-cloud/global/images/family/debian-12"
OURS = {"managed-by": "dumont-failover"}
"""A VM without this label is not ours, whatever it is called."""
SSH_PORT = 22
OPERATION_SECONDS = 120.0
PRICES = {  # list prices, US dollars an hour, (on demand, Spot); the bill may differ
    "e2-micro": (0.0084, 0.0025),
    "e2-small": (0.0168, 0.0050),
    "e2-medium": (0.0335, 0.0101),
    "e2-standard-2": (0.0670, 0.0201),
    "e2-standard-4": (0.1340, 0.0402),
}


class GceProvider:
    """MachineProvider over one project.

    ``zones`` are tried after the policy's own when that has no room. ``operation_timeout``:
    seconds that an operation may take before its outcome counts as unknown. ``ssh_port``: where
    the machines' sshd listens.
    """

    name = "gce"

    def __init__(
        self,
        client: Gce,
        *,
        zones: Sequence[str] = (),
        operation_timeout: float = OPERATION_SECONDS,
        ssh_port: int = SSH_PORT,
    ) -> None:
        self._client = client
        self._zones = tuple(zones)
        self._operation_timeout = operation_timeout
        self._ssh_port = ssh_port
        self._unsettled: dict[MachineId, str] = {}  # label -> the zone that owes us an answer

    async def provision(self, order: Order) -> Rental:
        if found := await self.find(order.label):
            return await self._keep_one(found)
        full: list[str] = []
        for zone in self._zones_for(order):
            self._unsettled[order.label] = zone
            try:
                rental = await self._create(zone, order)
            except NoCapacityError as error:
                full.append(str(error))
                continue
            self._unsettled.pop(order.label, None)
            return rental
        self._unsettled.pop(order.label, None)
        raise NoCapacityError(
            f"no zone has room for {order.policy.standby_machine}: {'; '.join(full)}",
            "name more zones in DUMONT_GCE_ZONES, or another standby_machine in the policy",
        )

    async def get(self, provider_id: str) -> Rental | None:
        vm = await _typed(self._client.get(*_place(provider_id)))
        return None if vm is None else self._rental(vm)

    async def find(self, label: MachineId) -> tuple[Rental, ...]:
        vms = await self._ours()
        same = sorted((vm for vm in vms if vm.name == label), key=lambda vm: vm.id)
        return tuple(self._rental(vm) for vm in same)

    async def inventory(self, prefix: str) -> tuple[Rental, ...]:
        return tuple(self._rental(vm) for vm in await self._ours() if vm.name.startswith(prefix))

    async def start(self, provider_id: str) -> None:
        zone, name = _place(provider_id)
        await self._until_it_can_start(zone, name)
        await _typed(self._client.start(zone, name, within=self._operation_timeout))

    async def stop(self, provider_id: str) -> bool:
        zone, name = _place(provider_id)
        vm = await _typed(self._client.get(zone, name))
        if vm is None or vm.at_rest:
            return True
        try:
            await self._client.stop(zone, name, within=self._operation_timeout)
        except NotFoundError:
            return True
        except CloudError as error:
            raise _provider_error(error) from error
        vm = await _typed(self._client.get(zone, name))
        return vm is None or vm.at_rest

    async def destroy(self, provider_id: str) -> bool:
        zone, name = _place(provider_id)
        try:
            await self._client.delete(zone, name, within=self._operation_timeout)
        except NotFoundError:
            return True
        except CloudError as error:
            raise _provider_error(error) from error
        return await _typed(self._client.get(zone, name)) is None

    async def _until_it_can_start(self, zone: str, name: str) -> None:
        """A preempted VM goes on stopping for up to 30 s, and is refused a start meanwhile."""
        try:
            async with asyncio.timeout(self._operation_timeout):
                while (vm := await _typed(self._client.get(zone, name))) is not None:
                    if vm.at_rest or vm.said.state is not MachineState.STOPPED:
                        return
                    await asyncio.sleep(self._client.poll)
        except TimeoutError:
            raise OutcomeUnknownError(f"gce: {name} in {zone} does not end stopping") from None

    # --- creating once ------------------------------------------------------------------

    def _zones_for(self, order: Order) -> list[str]:
        """The policy's zone, then ours; but first the one whose answer was lost, if any."""
        first = self._unsettled.get(order.label, order.policy.standby_zone)
        return list(dict.fromkeys((first, order.policy.standby_zone, *self._zones)))

    async def _keep_one(self, found: Sequence[Rental]) -> Rental:
        """Of several VMs with one label (in different zones) the oldest stays."""
        keeper, *others = found
        for other in others:
            await self.destroy(other.provider_id)
        self._unsettled.pop(keeper.label, None)
        return keeper

    async def _create(self, zone: str, order: Order) -> Rental:
        spec = VmSpec(
            name=order.label,
            machine_type=order.policy.standby_machine,
            disk_gb=order.policy.standby_disk_gb,
            spot=order.policy.standby_spot,
            image=IMAGE,
            labels=OURS,
            metadata={
                "startup-script": startup_script(order.bootstrap_public_key),
                "enable-oslogin": "FALSE",
            },
            tags=("dumont-standby",),
        )
        request_id = uuid5(NAMESPACE_URL, f"dumont:{zone}/{order.label}")
        try:
            failpoints.reach("call.before", "gce.insert")
            await self._client.insert(
                zone, spec, request_id=request_id, within=self._operation_timeout
            )
        except CloudError as error:
            if error.code != "alreadyExists":
                raise _provider_error(error) from error
        failpoints.reach("call.after", "gce.insert")
        vm = await _typed(self._client.get(zone, order.label))
        if vm is None:
            raise OutcomeUnknownError(f"gce created {order.label} in {zone} and does not show it")
        if not _is_ours(vm):
            raise ProviderError(
                f"gce has a VM called {order.label} in {zone} that is not ours",
                "rename or delete it, or set another DUMONT_INSTALLATION",
            )
        return self._rental(vm)

    async def _ours(self) -> list[Vm]:
        return [vm for vm in await _typed(self._client.all()) if _is_ours(vm)]

    def _rental(self, vm: Vm) -> Rental:
        said = vm.said
        on_demand, spot = PRICES.get(vm.machine_type, (0.0, 0.0))
        return Rental(
            label=MachineId(vm.name),
            provider=self.name,
            provider_id=f"{vm.zone}/{vm.name}",
            status=RentalStatus(said.state.value),
            address=vm.address,
            port=self._ssh_port if vm.address else None,
            price_per_hour=spot if vm.spot else on_demand,
            description=f"{vm.machine_type}{', Spot' if vm.spot else ''}, {vm.zone}",
            status_text=said.text,
            market_machine=vm.zone,
        )


def startup_script(public_key: str) -> str:
    """What root runs on every boot: let our bootstrap key in, and have rsync. Idempotent."""
    key = shlex.quote(public_key.strip())
    return f"""#!/bin/sh
set -eu
mkdir -p -m 700 /root/.ssh
touch /root/.ssh/authorized_keys
chmod 600 /root/.ssh/authorized_keys
grep -qxF {key} /root/.ssh/authorized_keys || echo {key} >> /root/.ssh/authorized_keys
mkdir -p /etc/ssh/sshd_config.d
echo 'PermitRootLogin prohibit-password' > /etc/ssh/sshd_config.d/00-dumont-root.conf
systemctl reload ssh 2>/dev/null || kill -HUP "$(cat /run/sshd.pid)"
command -v rsync >/dev/null || {{ apt-get -q update && apt-get -qy install rsync; }}
"""


def _is_ours(vm: Vm) -> bool:
    return OURS.items() <= vm.labels.items()


def _place(provider_id: str) -> tuple[str, str]:
    zone, slash, name = provider_id.partition("/")
    if not slash:
        raise ProviderError(f"{provider_id!r} is no id of gce; it must be ZONE/NAME")
    return zone, name


async def _typed(call: Awaitable[T]) -> T:
    try:
        return await call
    except CloudError as error:
        raise _provider_error(error) from error


def _provider_error(error: CloudError) -> ProviderError:
    """The wire's error in recovery's words: sorted by what recovery does next."""
    reason = str(error)
    match error:
        case AuthError():
            return CredentialError(
                reason,
                "check the project, the Google credentials and the role: it needs "
                "compute.instances.create, get, list, start, stop and delete",
            )
        case NoCapacityNowError():
            return NoCapacityError(reason)
        case UncertainError():
            detail = f"{reason} ({error.evidence})" if error.evidence else reason
            return OutcomeUnknownError(detail, "it is tried again; if it stays so: DUMONT_GCE_URL")
        case RateLimitedError():
            return ProviderError(reason, "the project's calls are limited: it goes on by itself")
        case _ if error.status == HTTPStatus.NOT_FOUND:
            return ProviderError(reason, "check DUMONT_GCE_PROJECT, DUMONT_GCE_URL and the zone")
        case _:
            return ProviderError(reason, "check the policy: standby_machine, standby_zone")
