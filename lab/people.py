"""People: they register, write through the endpoint, leave programs running, and answer halts."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lab.machines import Content, Machine
from services.api.service import NotTakenError
from services.recovery.domain.state import Notice, Phase
from services.recovery.ports import NoticeError
from shared.machines import Role, WorkspaceName

if TYPE_CHECKING:
    from lab.world import World

ACTOR = "ada"
LOOKS_EVERY = 400.0


class Messenger:
    """Implements ``Notices`` of the recovery service's ports: how people hear of things."""

    def __init__(self) -> None:
        self.answers = True
        self.told: list[tuple[WorkspaceName, Notice]] = []

    async def send(self, workspace: WorkspaceName, notice: Notice) -> str:
        await asyncio.sleep(0.5)
        if not self.answers:
            raise NoticeError("the webhook does not answer")
        self.told.append((workspace, notice))
        return "lab"


class People:
    """Everybody who works in the workspaces of a run."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = world.chance.of("people")
        self._writes = 0
        self._wishes = 0
        self._one_wish: dict[WorkspaceName, asyncio.Lock] = {}

    async def work(self, workspace: WorkspaceName) -> None:
        """Write every now and then, until cancelled."""
        while True:
            await asyncio.sleep(20 + self._chance.random() * 200)
            self._write(workspace)

    def _write(self, workspace: WorkspaceName) -> None:
        world = self._world
        state = world.oracle.book(workspace).state
        if not state.endpoint_port:
            return
        machine = world.endpoint.behind(state.endpoint_port)
        reached = machine is not None and machine.disk.workspace == workspace
        if machine is not None and reached and self._append(machine):
            role = Role(machine.disk.role)
            world.oracle.written(workspace, self._writes, role)
            if machine.disk.live is not None and self._chance.random() < 0.3:
                machine.disk.live.busy = True  # what was started there goes on by itself
        self._leftovers(workspace)

    def _leftovers(self, workspace: WorkspaceName) -> None:
        """Programs that nobody looks at write on: on the standby, and on GPUs given up long ago."""
        world = self._world
        for machine in world.fleet.of_provider("gce"):
            live = machine.disk.live
            busy = live is not None and live.busy and machine.up(world.now)
            if machine.disk.workspace == workspace and busy and self._append(machine):
                world.oracle.written(workspace, self._writes, Role.STANDBY)
        for machine in world.fleet.of_provider("vast"):
            disk = machine.disk
            alive = disk.workspace == workspace and disk.tree and machine.up(world.now)
            if alive and self._chance.random() < 0.2:
                self._append(machine)

    def _append(self, machine: Machine) -> bool:
        """Write on a host, if its gate lets people."""
        disk = machine.disk
        self._writes += 1
        if disk.role == Role.STANDBY.value:
            if disk.live is None or disk.live.frozen:
                return False
            disk.live.content = Content(self._writes, disk.live.content)
            return True
        if disk.tree is None:
            return False
        disk.tree = Content(self._writes, disk.tree)
        return True

    # --- asking

    async def register(self, workspace: WorkspaceName, policy: Mapping[str, Any]) -> None:
        arguments = {"path": "/workspace", "origin": "empty", "policy": dict(policy)}
        await self._ask(workspace, "register", arguments)

    def wish(self, workspace: WorkspaceName, verb: str, **arguments: Any) -> None:
        """Ask for something, when the api gets round to it."""
        self._world.spawn(self._ask(workspace, verb, arguments))

    async def look_after(self, workspace: WorkspaceName) -> None:
        """Somebody reads the notices now and then, and acts on a halt."""
        while True:
            await asyncio.sleep(LOOKS_EVERY * (0.5 + self._chance.random()))
            if self._world.oracle.book(workspace).state.phase is Phase.HALTED:
                self._world.meet("people: answered a halt")
                await self._ask(workspace, "recover", {})

    async def _ask(self, workspace: WorkspaceName, verb: str, arguments: dict[str, Any]) -> None:
        """The same request under the same key until it is in the log, and only then the next."""
        self._wishes += 1
        key = f"wish-{self._wishes}"
        async with self._one_wish.setdefault(workspace, asyncio.Lock()):
            await self._until_recorded(workspace, verb, arguments, key)

    async def _until_recorded(
        self, workspace: WorkspaceName, verb: str, arguments: dict[str, Any], key: str
    ) -> None:
        world = self._world
        for _ in range(30):
            if world.requests is not None:
                with suppress(NotTakenError, TimeoutError):
                    async with asyncio.timeout(60):
                        operation = await world.requests.submit(
                            verb, workspace, arguments, actor=ACTOR, key=key
                        )
                    if operation.position is not None:
                        world.meet(f"people: asked to {verb}")
                        return
            await asyncio.sleep(20)
