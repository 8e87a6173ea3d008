"""Carries out what the state owes: one task an effect, started and cancelled as the state says.

An effect whose outcome was recorded is no longer owed; one that failed is tried again after a
growing pause; one that the state gave up (a deadline passed) is cancelled.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

import structlog

from services.recovery.domain.effects import Effect
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import State
from services.recovery.ports import EndpointError, HostError, NoticeError, ProviderError
from services.recovery.service import Recovery
from shared import failpoints
from shared.eventlog.port import LogUnknownError
from shared.events import Event
from shared.events.recovery import EffectFailing
from shared.machines import WorkspaceName
from shared.patience import pause_after

PAUSE_FIRST = 0.25
PAUSE_MAX = 15.0
TRIES_BEFORE_TOLD = 5
"""So many failures of one effect in a row are told in the log, for people; it is tried on."""

TROUBLE = (HostError, ProviderError, EndpointError, NoticeError, LogUnknownError)
"""What passes: the effect is tried again. Without the log nobody knows whose term it is."""

CarryOut = Callable[[WorkspaceName, Effect], Awaitable[Sequence[Event]]]
Key = tuple[WorkspaceName, Effect]

log = structlog.get_logger()


class Driver:
    """``interval``: how often, in seconds, to look even when nothing was recorded."""

    def __init__(self, recovery: Recovery, carry_out: CarryOut, *, interval: float) -> None:
        self._recovery = recovery
        self._carry_out = carry_out
        self._interval = interval
        self._changed = recovery.changes()
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._owed: dict[WorkspaceName, tuple[State, tuple[Effect, ...]]] = {}

    async def run(self) -> None:
        """Until cancelled. A bug in an effect ends the process: the log says where it was."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                await self._recovery.tick()
                self._reconcile(group)
                await self._changed.comes(self._interval)

    def _reconcile(self, group: asyncio.TaskGroup) -> None:
        owed = {  # as a set, but in the order in which it is owed
            (workspace, effect): None
            for workspace, folded in self._recovery.states.items()
            for effect in self._pending(workspace, folded.state)
        }
        for key, task in list(self._running.items()):
            if task.done():
                del self._running[key]
            elif key not in owed:
                task.cancel()
                del self._running[key]
        for key in owed:
            if key not in self._running:
                self._running[key] = group.create_task(self._until_done(*key))

    def _pending(self, workspace: WorkspaceName, state: State) -> Sequence[Effect]:
        """What it owes, as long as its state is the same."""
        looked_at, effects = self._owed.get(workspace, (None, ()))
        if looked_at is not state:
            effects = pending(state)
            self._owed[workspace] = (state, effects)
        return effects

    async def _until_done(self, workspace: WorkspaceName, effect: Effect) -> None:
        name = type(effect).__name__
        for tries in count(1):
            try:
                failpoints.reach("effect.before", name)
                outcomes = await self._carry_out(workspace, effect)
                failpoints.reach("effect.after", name)
                break
            except TROUBLE as error:
                log.warning("effect failed", workspace=workspace, effect=name, reason=str(error))
                if tries == TRIES_BEFORE_TOLD:
                    await self._tell(workspace, effect, tries, error)
            await asyncio.sleep(pause_after(tries, first=PAUSE_FIRST, most=PAUSE_MAX, chance=0.0))
        # Shielded: an append that is under way is not cut by the change that it causes.
        await asyncio.shield(self._recovery.conclude(effect, outcomes))

    async def _tell(
        self, workspace: WorkspaceName, effect: Effect, tries: int, error: Exception
    ) -> None:
        failing = EffectFailing(
            workspace=workspace,
            epoch=effect.epoch,
            effect=_in_words(effect),
            tries=tries,
            reason=str(error),
            hint=getattr(error, "hint", ""),
        )
        await asyncio.shield(self._recovery.observe(failing))


def _in_words(effect: Effect) -> str:
    """``PromoteStandby`` as ``promote standby``."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(effect).__name__).lower()
