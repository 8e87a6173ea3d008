"""HAProxy as the product meets it: it forgets everything when it restarts, and may be away."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random

from lab.machines import Fleet, Machine
from lab.wire import Wire
from services.recovery.ports import Backend, EndpointError
from shared.machines import MachineId, WorkspaceName


class LabEndpoint:
    """Implements ``Endpoint`` of the recovery service's ports; all replicas share one."""

    def __init__(self, ports: Sequence[int], fleet: Fleet, chance: Random) -> None:
        self.leads: dict[int, Backend | None] = dict.fromkeys(ports)
        self.up = True
        self.on_point: Callable[[int, Backend | None], None] = lambda _, __: None
        self._fleet = fleet
        self._wire = Wire(chance, latency=0.02)

    async def read(self) -> dict[int, Backend | None]:
        await self._answering()
        return await self._wire.call(lambda: dict(self.leads))

    async def point(self, port: int, backend: Backend | None) -> None:
        await self._answering()

        def point() -> None:
            if self.leads[port] != backend:
                self.leads[port] = backend
                self.on_point(port, backend)

        await self._wire.call(point)

    async def seen(self, port: int, *, workspace: WorkspaceName, epoch: int) -> MachineId | None:
        await self._answering()

        def seen() -> MachineId | None:
            machine = self.behind(port)
            named = machine is not None and machine.disk.workspace == workspace
            return MachineId(machine.disk.machine) if machine is not None and named else None

        return await self._wire.call(seen)

    def behind(self, port: int) -> Machine | None:
        """The machine that people reach through a port now."""
        backend = self.leads[port]
        machine = self._fleet.by_address.get(backend.address) if backend and self.up else None
        if machine is None or machine.cut_off:
            return None
        return machine if machine.up(asyncio.get_running_loop().time()) else None

    def forget(self) -> None:
        """A restart: every server is in maintenance until somebody points it."""
        self.leads = dict.fromkeys(self.leads)

    async def _answering(self) -> None:
        if not self.up:
            await self._wire.nothing(EndpointError("HAProxy does not answer"), after=0.2)
