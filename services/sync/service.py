"""One loop for each workspace: what the assignment asks for, done and told.

Assignments say what to do; the domain says what is due; the data plane does it. A job runs until
it is done, fails, or is not wanted any more under a newer assignment: then it is cancelled, and
its session with it, which ends it on the standby. What is told comes from what the standby sealed,
not from what was asked of it: an answer that got lost is made up for by the next one.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID, uuid5

import structlog

from services.sync.domain import mirror
from services.sync.domain.mirror import Done, Job, Kind, Lane, Newest
from services.sync.ports import (
    CandidateLostError,
    DataPlane,
    DataPlaneError,
    OutdatedError,
    Progress,
    Sealed,
    ShrunkError,
)
from shared import assigned
from shared.assignments import Assignment
from shared.bus.port import Bus
from shared.clock import NewId, Now
from shared.events.base import Event
from shared.events.sync import (
    GenerationConfirmed,
    GenerationHeld,
    RestoreDone,
    RestoreFailed,
    RestoreProgressed,
    SyncCompleted,
    SyncFailed,
)
from shared.machines import WorkspaceName
from shared.patience import Waits
from shared.voice import Voice
from shared.waiting import News

SERVICE = "sync"
_SEALS = UUID("5f6c1f0e-2c1b-4f9e-9f6f-7d7a3d1c9b52")
"""Namespace of the ids of SyncCompleted: the same fact said again is the same event."""

log = structlog.get_logger()


class Sync:
    """``ready`` is called once, when the assignments were read for the first time.

    ``assignment_lease``: an assignment not read again for so many seconds begins nothing.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        plane: DataPlane,
        now: Now,
        new_id: NewId,
        ready: Callable[[], None],
        assignment_lease: float = 30.0,
        steady: Callable[[], float] = time.monotonic,
        waits: Waits | None = None,
    ) -> None:
        self._bus = bus
        self._plane = plane
        self._waits = waits or Waits(now=now)
        self._voice = Voice(bus, SERVICE, now=now, new_id=new_id, waits=self._waits)
        self._ready = ready
        self._lease = assignment_lease
        self._steady = steady
        self._workspaces: dict[WorkspaceName, Workspace] = {}

    async def run(self) -> None:
        """Until cancelled."""
        ready = False
        async with asyncio.TaskGroup() as group:
            async for found in assigned.read(self._bus, self._waits):
                for assignment in found:
                    self._learn(assignment, group)
                if not ready:
                    self._ready()
                    ready = True

    def _learn(self, new: Assignment, group: asyncio.TaskGroup) -> None:
        """Take in one assignment. A key that is missing changes nothing, its lease runs out."""
        workspace = self._workspaces.get(new.workspace)
        if workspace is None:
            workspace = Workspace(new, self._plane, self._voice, self._lease, self._steady)
            self._workspaces[new.workspace] = workspace
            group.create_task(workspace.run())
        else:
            workspace.assign(new)


class Workspace:
    """The work on one workspace."""

    def __init__(
        self,
        assignment: Assignment,
        plane: DataPlane,
        voice: Voice,
        lease: float,
        steady: Callable[[], float],
    ) -> None:
        self._assignment = assignment
        self._confirmed_at = steady()
        self._plane = plane
        self._voice = voice
        self._lease = lease
        self._steady = steady
        self._done = mirror.adopt(Done(), None, assignment)
        self._running: dict[Lane, tuple[Job, asyncio.Task[None]]] = {}
        self._wake = News()

    def assign(self, new: Assignment) -> None:
        """Obey this assignment from now on, unless it is older than the one that holds."""
        held = self._assignment
        if (new.epoch, new.position) < (held.epoch, held.position):
            return
        if self._expired() or new != held:
            self._wake.set()
        self._confirmed_at = self._steady()
        self._done = mirror.adopt(self._done, held, new)
        self._assignment = new
        for job, task in self._running.values():
            if not mirror.still_wanted(job, new):
                task.cancel()  # at once: it must not enter its outcome beside the new state

    async def run(self) -> None:
        """Until cancelled. An error that nobody foresaw in a job ends it, and the process."""
        try:
            while True:
                self._wake.clear()
                self._collect()
                if not self._expired():
                    self._begin()
                await self._wait()
        finally:
            tasks = [task for _, task in self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _expired(self) -> bool:
        return self._steady() - self._confirmed_at > self._lease

    def _collect(self) -> None:
        """Free the lanes of jobs that have ended."""
        for lane, (_, task) in list(self._running.items()):
            if task.done():
                del self._running[lane]
                if not task.cancelled():
                    task.result()

    def _begin(self) -> None:
        now = self._steady()
        for job in mirror.due(self._assignment, self._done, now):
            if job.lane not in self._running:
                task = asyncio.create_task(self._work(job))
                task.add_done_callback(lambda _: self._wake.set())
                self._running[job.lane] = (job, task)

    def _work(self, job: Job) -> Coroutine[Any, Any, None]:
        match job.kind:
            case Kind.PUSH:
                return self._push(job)
            case Kind.FOLLOW:
                return self._follow()
            case _:
                return self._copy(job)

    async def _wait(self) -> None:
        """Until something happened, or the next job is due."""
        now = self._steady()
        at = mirror.next_at(self._assignment, self._done, now)
        await self._wake.comes(None if at is None or self._expired() else at - now)

    # --- copies ---------------------------------------------------------------------------

    async def _copy(self, job: Job) -> None:
        assignment, began = self._assignment, self._steady()
        self._done = mirror.copy_begun(self._done, began)
        try:
            if job.kind is Kind.PULL:
                sealed = await self._plane.pull(assignment)
            else:
                sealed = await self._plane.seal(assignment)
        except DataPlaneError as error:
            await self._copy_failed(job, assignment, error)
            return
        await self._voice.sample(
            assignment.workspace,
            "sync",
            source=job.machine,
            epoch=job.epoch,
            generation=sealed.generation,
            changed=sealed.changed,
            bytes_changed=sealed.bytes_changed,
            files_changing=sealed.files_changing,
            seconds=sealed.seconds,
            taken_at=sealed.taken_at.isoformat(),
        )
        now, interval = self._steady(), assignment.policy.sync_interval
        if mirror.to_report(self._done, job, sealed.generation, interval=interval, now=now):
            await self._report(job, assignment, sealed)
            self._done = mirror.told(self._done, sealed.generation, self._steady())
        elif mirror.to_confirm(assignment, self._done, now):
            await self._confirm(job, assignment, sealed)
            self._done = mirror.told(self._done, sealed.generation, self._steady())
        self._done = mirror.copied(
            self._done,
            job,
            Newest(generation=sealed.generation, bytes=sealed.bytes),
            interval=interval,
            began=began,
            now=self._steady(),
        )

    async def _follow(self) -> None:
        """Hear of changes on the GPU for as long as that goes well."""
        assignment, heard = self._assignment, False

        def on_change() -> None:
            nonlocal heard
            heard = True
            self._done = mirror.noticed(self._done, self._steady())
            self._wake.set()

        try:
            await self._plane.follow(assignment, on_change)
        except DataPlaneError as error:
            reason = error.reason
            log.info("no watch", workspace=assignment.workspace, code=error.code, reason=reason)
        self._done = mirror.follow_ended(self._done, self._steady(), heard=heard)

    async def _report(self, job: Job, assignment: Assignment, sealed: Sealed) -> None:
        fact = (
            job.standby,
            job.machine,
            str(job.epoch),
            sealed.generation,
            sealed.manifest_sha256,
            str(job.seal),
        )
        completed = SyncCompleted(
            workspace=assignment.workspace,
            epoch=job.epoch,
            generation=sealed.generation,
            sequence=sealed.sequence,
            source=job.machine,
            files=sealed.files,
            bytes=sealed.bytes,
            bytes_changed=sealed.bytes_changed,
            manifest_sha256=sealed.manifest_sha256,
            seconds=sealed.seconds,
            completed_at=self._voice.now(),
            taken_at=sealed.taken_at,
            seal=job.seal,
            files_changing=sealed.files_changing,
            standby=job.standby,
        )
        await self._voice.say(completed, uuid5(_SEALS, "/".join((assignment.workspace, *fact))))

    async def _confirm(self, job: Job, assignment: Assignment, sealed: Sealed) -> None:
        await self._voice.say(
            GenerationConfirmed(
                workspace=assignment.workspace,
                epoch=job.epoch,
                generation=sealed.generation,
                source=job.machine,
                taken_at=sealed.taken_at,
            )
        )

    async def _copy_failed(self, job: Job, assignment: Assignment, error: DataPlaneError) -> None:
        failed = mirror.copy_failed(
            self._done,
            job,
            error.code,
            interval=assignment.policy.sync_interval,
            now=self._steady(),
        )
        self._done = failed
        log.warning("no copy", workspace=assignment.workspace, code=error.code, reason=error.reason)
        await self._voice.sample(
            assignment.workspace,
            "sync",
            source=job.machine,
            epoch=job.epoch,
            error=error.code,
            reason=error.reason,
        )
        if isinstance(error, OutdatedError) or not mirror.failure_is_news(failed):
            return
        if isinstance(error, ShrunkError):
            event: Event = GenerationHeld(
                workspace=assignment.workspace,
                epoch=job.epoch,
                source=job.machine,
                reason=error.reason,
                files_before=error.files_before,
                files_now=error.files_now,
                bytes_before=error.bytes_before,
                bytes_now=error.bytes_now,
            )
        else:
            event = SyncFailed(
                workspace=assignment.workspace,
                epoch=job.epoch,
                source=job.machine,
                reason=error.reason,
                hint=error.hint,
            )
        await self._voice.say(event)

    # --- restores -------------------------------------------------------------------------

    async def _push(self, job: Job) -> None:
        assignment, newest = self._assignment, self._done.newest
        assert newest is not None
        samples: asyncio.Queue[Progress | None] = asyncio.Queue()
        teller = asyncio.create_task(self._tell_progress(job, assignment, samples))
        try:
            pushed = await self._plane.push(
                assignment,
                final=job.final,
                bytes_total=newest.bytes,
                on_progress=samples.put_nowait,
            )
            samples.put_nowait(None)
            await teller
        except DataPlaneError as error:
            await self._push_failed(job, assignment, error)
            return
        finally:
            teller.cancel()
        await self._voice.say(
            RestoreDone(
                workspace=assignment.workspace,
                epoch=job.epoch,
                machine=job.machine,
                attempt=job.attempt,
                round=job.round,
                final=job.final,
                generation=pushed.generation,
                files=pushed.files,
                bytes=pushed.bytes,
                bytes_copied=pushed.bytes_copied,
                manifest_sha256=pushed.manifest_sha256,
                seconds=pushed.seconds,
            )
        )
        self._done = mirror.pushed(self._done, job)

    async def _tell_progress(
        self, job: Job, assignment: Assignment, samples: asyncio.Queue[Progress | None]
    ) -> None:
        told = 0
        while progress := await samples.get():
            await self._voice.sample(
                assignment.workspace,
                "restore",
                machine=job.machine,
                attempt=job.attempt,
                round=job.round,
                bytes_done=progress.bytes_done,
                bytes_total=progress.bytes_total,
            )
            reached = mirror.quarter(progress.bytes_done, progress.bytes_total)
            if reached > told:
                told = reached
                await self._voice.say(
                    RestoreProgressed(
                        workspace=assignment.workspace,
                        epoch=job.epoch,
                        machine=job.machine,
                        attempt=job.attempt,
                        bytes_done=progress.bytes_done,
                        bytes_total=progress.bytes_total,
                    )
                )

    async def _push_failed(self, job: Job, assignment: Assignment, error: DataPlaneError) -> None:
        self._done = mirror.push_failed(
            self._done, job, interval=assignment.policy.sync_interval, now=self._steady()
        )
        log.warning("no pass", workspace=assignment.workspace, code=error.code, reason=error.reason)
        if isinstance(error, OutdatedError):
            return
        await self._voice.say(
            RestoreFailed(
                workspace=assignment.workspace,
                epoch=job.epoch,
                machine=job.machine,
                attempt=job.attempt,
                round=job.round,
                reason=error.reason,
                candidate_lost=isinstance(error, CandidateLostError),
                hint=error.hint,
            )
        )
