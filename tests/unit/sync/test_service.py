"""The sync service as a whole: assignments in, events out, on virtual time.

The standby is one on paper: it takes as long as the test says and seals what it is given.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest

from services.sync.ports import (
    CandidateLostError,
    DataPlaneError,
    OutdatedError,
    Progress,
    Pushed,
    Sealed,
    ShrunkError,
)
from services.sync.service import Sync
from shared import assignments, clock
from shared.assignments import Assignment, SyncMode
from shared.bus.memory import MemoryBus
from shared.bus.port import BusError
from shared.envelope import Envelope
from shared.events import Event
from shared.events.sync import (
    GenerationHeld,
    RestoreDone,
    RestoreFailed,
    RestoreProgressed,
    SyncCompleted,
    SyncFailed,
)
from shared.policy import Policy
from shared.subjects import STREAM_INBOX
from tests.support import virtual_time
from tests.support.faults import fault
from tests.unit.sync.workspace import CANDIDATE, GPU, STANDBY, TRAIN, assignment

T = TypeVar("T", bound=Event)


@dataclass
class PaperStandby:
    """Seals a new generation whenever ``written`` grew since the last one."""

    seconds: float = 1.0
    written: int = 1
    sealed: int = 0
    trouble: list[Exception] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    running: int = 0
    watchable: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, order: Assignment, on_change: Callable[[], None]) -> None:
        async with self._job(f"follow e{order.epoch}"):
            if not self.watchable:
                raise DataPlaneError("watch-limit", "too many directories")
            while True:
                on_change()
                await self.changed.wait()
                self.changed.clear()

    def write(self) -> None:
        """Something changes on the GPU."""
        self.written += 1
        self.changed.set()

    async def pull(self, order: Assignment) -> Sealed:
        return await self._seal(f"pull e{order.epoch}", order)

    async def seal(self, order: Assignment) -> Sealed:
        return await self._seal(f"seal e{order.epoch}", order)

    async def push(
        self,
        order: Assignment,
        *,
        final: bool,
        bytes_total: int,
        on_progress: Callable[[Progress], None],
    ) -> Pushed:
        generation = self._generation(order)
        async with self._job(f"push {generation} final={final}"):
            for tenth in range(11):
                on_progress(Progress(bytes_done=tenth * 10, bytes_total=100))
                await asyncio.sleep(self.seconds / 11)
        return Pushed(
            generation=generation,
            files=1,
            bytes=bytes_total,
            bytes_copied=10,
            manifest_sha256="00",
            seconds=self.seconds,
        )

    async def _seal(self, name: str, order: Assignment) -> Sealed:
        taken_at = virtual_time.now()
        async with self._job(name):
            await asyncio.sleep(self.seconds)
            changed = self.written > self.sealed
            self.sealed = self.written
        return Sealed(
            generation=self._generation(order),
            sequence=self.sealed,
            files=1,
            bytes=100,
            bytes_changed=1,
            manifest_sha256="00",
            seconds=self.seconds,
            taken_at=taken_at,
            changed=changed,
        )

    def _generation(self, order: Assignment) -> str:
        return f"g{self.sealed}"

    @asynccontextmanager
    async def _job(self, name: str) -> AsyncIterator[None]:
        self.begun.append(name)
        self.running += 1
        try:
            if self.trouble:
                raise self.trouble.pop(0)
            yield
            self.ended.append(name)
        finally:
            self.running -= 1


@dataclass
class Scene:
    """A running service with what it can see."""

    bus: MemoryBus
    standby: PaperStandby
    samples: list[tuple[str, dict[str, Any]]]

    async def assign(self, order: Assignment) -> None:
        await self.bus.put(order.workspace, assignments.encode(order))
        await asyncio.sleep(0.01)

    @property
    def envelopes(self) -> list[Envelope]:
        return self.bus.published(STREAM_INBOX)

    @property
    def events(self) -> list[Event]:
        return [envelope.event for envelope in self.envelopes]

    def said(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def scene(standby: PaperStandby | None = None, **settings: Any) -> AsyncIterator[Scene]:
    bus, plane = MemoryBus(), standby or PaperStandby()
    samples: list[tuple[str, dict[str, Any]]] = []

    async def hear(subject: str, body: bytes) -> None:
        samples.append((subject, json.loads(body)))

    await bus.subscribe("dumont.telemetry.>", hear)
    service = Sync(
        bus,
        plane=plane,
        now=virtual_time.now,
        new_id=clock.new_id,
        ready=lambda: None,
        steady=asyncio.get_running_loop().time,
        **settings,
    )
    task = asyncio.create_task(service.run())
    try:
        yield Scene(bus, plane, samples)
    finally:
        assert not task.done(), task
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert plane.running == 0


WATCHED = assignment(SyncMode.MIRROR, policy=Policy(sync_interval=30.0, watch=True))


class TestAWatch:
    def test_brings_a_change_into_the_copy_within_seconds(self) -> None:
        async def main() -> None:
            async with scene(PaperStandby(seconds=0.1)) as stage:
                await stage.assign(WATCHED)
                await asyncio.sleep(100)
                stage.standby.write()
                await asyncio.sleep(1.0)
                assert stage.standby.sealed == stage.standby.written

        virtual_time.run(main())

    def test_has_all_changes_copied_and_the_log_told_once_an_interval(self) -> None:
        async def main() -> None:
            async with scene(PaperStandby(seconds=0.1)) as stage:
                await stage.assign(WATCHED)
                for _ in range(300):
                    await asyncio.sleep(1.0)
                    stage.standby.write()
                await asyncio.sleep(60.0)
                assert stage.standby.ended.count("pull e1") > 200
                assert 8 <= len(stage.said(SyncCompleted)) <= 13
                newest = stage.said(SyncCompleted)[-1].generation
                assert newest == f"g{stage.standby.written}", "the last one is told of too"

        virtual_time.run(main())

    def test_ends_with_the_epoch_that_it_was_for(self) -> None:
        async def main() -> None:
            async with scene() as stage:
                await stage.assign(WATCHED)
                await asyncio.sleep(10)
                assert stage.standby.begun.count("follow e1") == 1
                await stage.assign(replace(WATCHED, epoch=2, position=11, mode=SyncMode.SERVE))
                await asyncio.sleep(10)
                assert stage.standby.running == 0

        virtual_time.run(main())

    def test_that_cannot_be_had_leaves_the_copies_at_the_interval(self) -> None:
        async def main() -> None:
            standby = PaperStandby(watchable=False)
            async with scene(standby) as stage:
                await stage.assign(WATCHED)
                await asyncio.sleep(301)
                assert 2 <= standby.begun.count("follow e1") < 8
                assert standby.ended.count("pull e1") >= 10
                assert stage.said(SyncFailed) == []

        virtual_time.run(main())


class TestAMirror:
    def test_tells_of_new_generations_only(self) -> None:
        async def main() -> None:
            async with scene() as stage:
                await stage.assign(assignment(SyncMode.MIRROR))
                await asyncio.sleep(100)
                stage.standby.written += 1
                await asyncio.sleep(30)
                assert stage.standby.ended == ["pull e1"] * 5
                first, second = stage.said(SyncCompleted)
                assert (first.generation, second.generation) == ("g1", "g2")
                assert (first.source, first.epoch, first.seal) == (GPU.id, 1, 0)
                assert second.completed_at > second.taken_at
                syncs = [s for subject, s in stage.samples if subject.endswith("train.sync")]
                assert [s["changed"] for s in syncs] == [True, False, False, False, True]

        virtual_time.run(main())

    @fault(14)
    def test_tells_the_same_fact_with_the_same_id_after_a_restart(self) -> None:
        async def main() -> None:
            ids = []
            for _ in range(2):
                async with scene() as stage:
                    await stage.assign(assignment(SyncMode.MIRROR))
                    await asyncio.sleep(5)
                    ids += [envelope.id for envelope in stage.envelopes]
            assert len(ids) == 2
            assert len(set(ids)) == 1

        virtual_time.run(main())

    @fault(14)
    def test_makes_up_for_an_answer_that_got_lost(self) -> None:
        async def main() -> None:
            async with scene() as stage:
                stage.standby.sealed = stage.standby.written  # sealed, but we never heard of it
                await stage.assign(assignment(SyncMode.MIRROR))
                await asyncio.sleep(5)
                assert [e.generation for e in stage.said(SyncCompleted)] == ["g1"]

        virtual_time.run(main())

    def test_says_a_lasting_failure_once_and_goes_on_trying(self) -> None:
        async def main() -> None:
            trouble = DataPlaneError("source-unreachable", "no answer", "look at it")
            async with scene(PaperStandby(trouble=[trouble] * 3)) as stage:
                await stage.assign(assignment(SyncMode.MIRROR))
                await asyncio.sleep(100)
                (failed,) = stage.said(SyncFailed)
                assert (failed.source, failed.reason, failed.hint) == (
                    GPU.id,
                    "no answer",
                    "look at it",
                )
                assert len(stage.said(SyncCompleted)) == 1

        virtual_time.run(main())

    @fault(77)
    def test_holds_a_shrunken_source_until_a_person_accepts_it(self) -> None:
        async def main() -> None:
            held = ShrunkError("shrank", files_before=9, files_now=0, bytes_before=5, bytes_now=0)
            async with scene(PaperStandby(trouble=[held, held])) as stage:
                order = assignment(SyncMode.MIRROR)
                await stage.assign(order)
                await asyncio.sleep(40)
                (said,) = stage.said(GenerationHeld)
                assert (said.files_before, said.files_now) == (9, 0)
                await stage.assign(replace(order, position=11, accept_shrink=True))
                await asyncio.sleep(2)
                assert len(stage.said(SyncCompleted)) == 1

        virtual_time.run(main())

    def test_keeps_silent_when_its_assignment_is_only_late(self) -> None:
        async def main() -> None:
            stale = OutdatedError("stale-epoch", "the host is at epoch 2")
            async with scene(PaperStandby(trouble=[stale])) as stage:
                await stage.assign(assignment(SyncMode.MIRROR))
                await asyncio.sleep(10)
                assert stage.events == []

        virtual_time.run(main())

    @fault(22)
    def test_publishes_again_until_the_bus_has_it(self) -> None:
        async def main() -> None:
            async with scene() as stage:
                await stage.assign(assignment(SyncMode.MIRROR))
                stage.bus.connected = False
                await asyncio.sleep(20)
                assert stage.events == []
                stage.bus.connected = True
                await asyncio.sleep(2)
                assert len(stage.said(SyncCompleted)) == 1

        virtual_time.run(main())

    def test_begins_nothing_on_an_assignment_that_nobody_confirms(self) -> None:
        async def main() -> None:
            async with scene(assignment_lease=40.0) as stage:
                await stage.assign(assignment(SyncMode.MIRROR))
                await asyncio.sleep(10)
                stage.bus.connected = False
                await asyncio.sleep(300)
                assert len(stage.standby.begun) == 2
                stage.bus.connected = True
                stage.bus.wake()
                await asyncio.sleep(1)
                assert len(stage.standby.begun) == 3

        virtual_time.run(main())


class TestAChangedAssignment:
    def test_of_a_new_epoch_ends_the_running_job_at_once(self) -> None:
        async def main() -> None:
            async with scene(PaperStandby(seconds=20.0)) as stage:
                await stage.assign(assignment(SyncMode.MIRROR))
                await asyncio.sleep(5)
                await stage.assign(assignment(SyncMode.SERVE, epoch=2, position=20))
                await asyncio.sleep(25)
                assert stage.standby.ended == ["seal e2"]
                (said,) = stage.said(SyncCompleted)
                assert (said.epoch, said.source) == (2, STANDBY.id)

        virtual_time.run(main())

    def test_of_the_same_epoch_and_source_lets_the_job_go_on(self) -> None:
        async def main() -> None:
            async with scene(PaperStandby(seconds=20.0)) as stage:
                order = assignment(SyncMode.MIRROR)
                await stage.assign(order)
                await asyncio.sleep(5)
                await stage.assign(replace(order, position=11))
                await asyncio.sleep(16)
                assert stage.standby.begun == stage.standby.ended == ["pull e1"]

        virtual_time.run(main())

    @fault(28)
    @pytest.mark.parametrize("older", [{"epoch": 0, "position": 99}, {"position": 9}])
    def test_that_is_older_changes_nothing(self, older: dict[str, int]) -> None:
        async def main() -> None:
            async with scene() as stage:
                order = assignment(SyncMode.MIRROR)
                await stage.assign(order)
                await stage.assign(replace(order, mode=SyncMode.IDLE, **older))  # type: ignore[arg-type]
                await asyncio.sleep(31)
                assert len(stage.standby.begun) == 2

        virtual_time.run(main())

    def test_that_is_not_readable_leaves_the_others_alone(self) -> None:
        async def main() -> None:
            async with scene() as stage:
                await stage.bus.put("garbage", b"{}")
                await stage.assign(assignment(SyncMode.MIRROR))
                await asyncio.sleep(5)
                assert len(stage.said(SyncCompleted)) == 1

        virtual_time.run(main())

    def test_that_asks_for_a_seal_gets_the_newest_generation_reported(self) -> None:
        async def main() -> None:
            async with scene() as stage:
                order = assignment(SyncMode.SERVE)
                await stage.assign(order)
                await asyncio.sleep(5)
                await stage.assign(replace(order, position=11, seal=1))
                await asyncio.sleep(5)
                first, asked = stage.said(SyncCompleted)
                assert first.generation == asked.generation
                assert (first.seal, asked.seal) == (0, 1)

        virtual_time.run(main())


class TestARestore:
    def test_sends_what_was_sealed_for_the_round_and_tells_at_each_quarter(self) -> None:
        async def main() -> None:
            async with scene(PaperStandby(seconds=11.0)) as stage:
                await stage.assign(assignment(SyncMode.RESTORE, seal=1))
                await asyncio.sleep(60)
                (done,) = stage.said(RestoreDone)
                assert (done.machine, done.attempt, done.round) == (CANDIDATE.id, 1, 1)
                assert (done.generation, done.final) == ("g1", False)
                told = [event.bytes_done for event in stage.said(RestoreProgressed)]
                assert told == [30, 50, 80, 100]
                samples = [s for subject, s in stage.samples if subject.endswith("restore")]
                assert len(samples) == 11

        virtual_time.run(main())

    def test_seals_again_while_a_long_pass_is_under_way(self) -> None:
        async def main() -> None:
            async with scene(PaperStandby(seconds=1.0)) as stage:
                await stage.assign(assignment(SyncMode.RESTORE))
                await asyncio.sleep(1.5)
                stage.standby.seconds = 100.0
                stage.standby.written += 1
                await asyncio.sleep(40)
                assert "seal e1" in stage.standby.begun[2:]

        virtual_time.run(main())

    def test_ends_with_a_seal_and_a_pass_that_began_after_the_freeze(self) -> None:
        async def main() -> None:
            async with scene() as stage:
                order = assignment(SyncMode.RESTORE, seal=1)
                await stage.assign(order)
                await asyncio.sleep(10)
                stage.standby.written += 1
                await stage.assign(replace(order, position=11, mode=SyncMode.IDLE))
                await stage.assign(replace(order, position=12, mode=SyncMode.FINAL, seal=2))
                await asyncio.sleep(10)
                assert stage.standby.ended[-2:] == ["seal e1", "push g2 final=True"]
                assert [done.final for done in stage.said(RestoreDone)] == [False, True]
                assert stage.said(SyncCompleted)[-1].seal == 2

        virtual_time.run(main())

    def test_says_whom_a_failed_pass_is_to_be_blamed_on(self) -> None:
        async def main() -> None:
            async with scene() as stage:
                order = assignment(SyncMode.RESTORE)
                await stage.assign(order)
                await asyncio.sleep(0.5)
                stage.standby.trouble = [
                    DataPlaneError("verify-failed", "1 file differs"),
                    CandidateLostError("candidate-lost", "no answer"),
                ]
                await asyncio.sleep(20)
                failed = stage.said(RestoreFailed)
                assert [(f.reason, f.candidate_lost) for f in failed] == [
                    ("1 file differs", False),
                    ("no answer", True),
                ]
                assert len(stage.said(RestoreDone)) == 1

        virtual_time.run(main())


def test_an_error_that_nobody_foresaw_ends_the_service() -> None:
    async def main() -> None:
        bus = MemoryBus()
        service = Sync(
            bus,
            plane=PaperStandby(trouble=[BusError("a bug")]),
            now=virtual_time.now,
            new_id=clock.new_id,
            ready=lambda: None,
            steady=asyncio.get_running_loop().time,
        )
        await bus.put(TRAIN, assignments.encode(assignment(SyncMode.MIRROR)))
        with pytest.raises(ExceptionGroup):
            await service.run()

    virtual_time.run(main())
