"""Publishes what health and sync are to do: one key a workspace in the state bucket.

The bucket may lose everything and a watcher may be blind for a while, so all keys are put again
at each start, after each reconnect and now and then.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.recovery.domain.obligations import assignment
from services.recovery.domain.state import Phase
from services.recovery.service import Folded, Recovery
from shared import assignments
from shared.assignments import Assignment
from shared.bus.port import Bus, BusError
from shared.machines import WorkspaceName
from shared.patience import BUS, Waits

REPEAT_SECONDS = 10.0
"""So often all keys are put again although nothing changed."""
AGAIN_SECONDS = 1.0
"""What the bucket lost is put again once in so many seconds at the most."""


@dataclass(slots=True)
class _Made:
    """An assignment as it was encoded last. ``of`` is the newest state of which it is true."""

    of: Folded
    made: Assignment
    value: bytes


class Assigner:
    """``host_ca`` gives the public key of a workspace's host CA; ``may_act`` raises without a
    lease.
    """

    def __init__(
        self,
        recovery: Recovery,
        bus: Bus,
        *,
        host_ca: Callable[[WorkspaceName], str],
        user_ca: str,
        system: assignments.System,
        repeat: float = REPEAT_SECONDS,
        may_act: Callable[[], object] = lambda: None,
        waits: Waits | None = None,
    ) -> None:
        self._recovery = recovery
        self._bus = bus
        self._host_ca = host_ca
        self._user_ca = user_ca
        self._system = assignments.encode_system(system)
        self._repeat = repeat
        self._may_act = may_act
        self._changed = recovery.changes()
        self._put: dict[str, bytes] = {}
        self._last: dict[WorkspaceName, _Made] = {}
        self._patience = (waits or Waits()).patience(BUS)

    def put_again(self) -> None:
        """The bucket may be empty: put every key once more."""
        self._put.clear()
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            try:
                await self._publish()
            except BusError as error:
                self._put.clear()
                await self._patience.wait(f"assignments not published: {error}")
                continue
            self._patience.over()
            if not await self._changed.comes(self._repeat):
                self._put.clear()

    async def run_on_changes(self) -> None:
        """Until cancelled: after a reconnect or a change of the bucket, put what is missing."""
        async for _ in self._bus.changes():
            with contextlib.suppress(BusError):
                put = dict(self._put)
                there = await self._bus.entries()
                # What was put meanwhile, the answer may not show yet.
                gone = [key for key in put if there.get(key) != put[key] == self._put.get(key)]
                for key in gone:
                    del self._put[key]
                if gone:
                    self._changed.set()
                    # Another recovery that has not noticed yet that it is none any more may put
                    # its own back each time: that must not go as fast as the bus can.
                    await asyncio.sleep(AGAIN_SECONDS)

    async def _publish(self) -> None:
        wanted = {assignments.SYSTEM_KEY: self._system} | {
            workspace: self._encoded(workspace, folded)
            for workspace, folded in self._recovery.states.items()
            if folded.state.phase is not Phase.UNREGISTERED
        }
        for key, value in wanted.items():
            if self._put.get(key) != value:
                self._may_act()
                await self._bus.put(key, value)
                self._put[key] = value

    def _encoded(self, workspace: WorkspaceName, folded: Folded) -> bytes:
        """Made anew only after an event of this workspace, or with another CA.

        Most events change nothing for health and sync: then the value stays what it was, position
        and all, and nobody is woken.
        """
        host_ca = self._host_ca(workspace)
        last = self._last.get(workspace)
        if last is not None and last.of is folded and last.made.host_ca == host_ca:
            return last.value
        made = assignment(
            folded.state, position=folded.position, host_ca=host_ca, user_ca=self._user_ca
        )
        if last is not None and replace(last.made, position=made.position) == made:
            last.of = folded
            return last.value
        self._last[workspace] = _Made(folded, made, value := assignments.encode(made))
        return value
