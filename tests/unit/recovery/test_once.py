"""A fact is in the log once: however often it is delivered, and whenever recovery dies over it."""

import asyncio
from dataclasses import replace
from uuid import UUID

from services.recovery.domain.effects import ConfirmDeath
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import Phase
from services.recovery.inbox import listen_forever
from services.recovery.service import Recovery
from shared import subjects
from shared.bus.memory import MemoryBus
from shared.envelope import Envelope
from shared.eventlog.memory import MemoryLog
from shared.eventlog.port import LogUnknownError
from shared.events.recovery import FailoverStarted, WorkspacePaused
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName
from tests.support import virtual_time
from tests.support.examples import WS
from tests.support.faults import fault
from tests.support.situations import syncing_with_a_suspect
from tests.support.world import PORT, Ids
from tests.unit.recovery.test_every_failure import envelopes


def registration(workspace: WorkspaceName = WS) -> Envelope:
    event = RequestReceived(workspace=workspace, epoch=0, verb="register", actor="ada")
    return Envelope(id=UUID(int=7), source="api", time=virtual_time.now(), event=event)


async def a_recovery(log: MemoryLog, *, term: int | None = None) -> Recovery:
    """One that holds the lease, or believes to hold it under ``term``."""
    held = term or await log.acquire("recovery", 100_000)
    assert held is not None
    recovery = Recovery(
        log,
        term=lambda: held,
        now=virtual_time.now,
        new_id=Ids(),
        installation="dumont",
        ports=[PORT],
    )
    await recovery.load()
    return recovery


def types(log: MemoryLog) -> list[str]:
    return [row.type for row in log.rows]


ANSWERED = ["RequestReceived", "WorkspaceRegistered", "ProvisionRequested"]


@fault(2, 4, 27, 35)
def test_a_fact_that_is_delivered_again_is_recorded_and_decided_on_once() -> None:
    async def story() -> list[str]:
        log = MemoryLog(now=virtual_time.now)
        recovery = await a_recovery(log)
        await recovery.listen(registration())
        await recovery.listen(registration())
        await (await a_recovery(log)).listen(registration())
        return types(log)

    assert virtual_time.run(story()) == ANSWERED


@fault(3, 37)
def test_a_fact_that_recovery_died_over_is_heard_by_the_next() -> None:
    async def story() -> list[str]:
        log, bus = MemoryLog(now=virtual_time.now), MemoryBus()
        envelope = registration()
        await bus.publish(subjects.inbox("api", WS, envelope.event.type), envelope)
        recovery = await a_recovery(log)
        log.answering = False
        dying = asyncio.create_task(listen_forever(bus, recovery))
        await asyncio.sleep(5.0)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        log.answering = True
        living = asyncio.create_task(listen_forever(bus, await a_recovery(log)))
        await asyncio.sleep(bus.ack_wait + 1.0)
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        return types(log)

    assert virtual_time.run(story()) == ANSWERED


@fault(38)
def test_an_append_whose_answer_was_lost_is_not_made_again() -> None:
    class Mute(MemoryLog):
        """Records, and then does not say so: once."""

        muted = False

        async def append(
            self, envelopes: object, *, term: int, expected_version: int
        ) -> list[Envelope]:
            recorded = await super().append(
                envelopes,  # type: ignore[arg-type]
                term=term,
                expected_version=expected_version,
            )
            if not self.muted:
                self.muted = True
                raise LogUnknownError("the connection was cut after the commit")
            return recorded

    async def story() -> list[str]:
        log = Mute(now=virtual_time.now)
        recovery = await a_recovery(log)
        await recovery.listen(registration())
        assert recovery.state(WS).phase is Phase.ON_STANDBY
        return types(log)

    assert virtual_time.run(story()) == ANSWERED


@fault(42, 51)
def test_two_recoveries_that_believe_to_be_the_one_decide_once() -> None:
    """With the lease out of the way: the expected version alone must hold."""

    async def story() -> list[str]:
        log = MemoryLog(now=virtual_time.now)
        first, second = await a_recovery(log), await a_recovery(log, term=1)
        await first.listen(registration())
        await second.listen(replace(registration(), id=UUID(int=8)))
        return types(log)

    assert virtual_time.run(story()) == [*ANSWERED, "RequestReceived", "RequestRefused"]


@fault(29, 96)
def test_what_was_concluded_while_a_person_said_otherwise_is_not_recorded() -> None:
    async def story() -> list[str]:
        log = MemoryLog(now=virtual_time.now)
        told = envelopes(syncing_with_a_suspect().told)
        term = await log.acquire("recovery", 100_000)
        assert term is not None
        await log.append(told, term=term, expected_version=0)
        recovery = await a_recovery(log)
        (look,) = [e for e in pending(recovery.state(WS)) if isinstance(e, ConfirmDeath)]
        await recovery.observe(WorkspacePaused(workspace=WS, epoch=look.epoch))
        dead = FailoverStarted(workspace=WS, epoch=look.epoch + 1, machine=look.host.id, reason="")
        await recovery.conclude(look, [dead])
        return types(log)[len(told) :]

    assert "FailoverStarted" not in virtual_time.run(story())
