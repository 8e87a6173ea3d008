"""One loop for each watched host: look, judge, count, say.

Assignments say whom to watch. A host that stays in its role keeps its counter; a changed epoch or
address begins anew. Nothing is caught up: a process that was stopped for a minute makes one check
afterwards, not six.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from services.health.domain.detector import (
    Brake,
    Check,
    ProviderView,
    Signals,
    Subject,
    Verdict,
    count,
    doubt,
    judge,
    witnessed,
)
from services.health.ports import ProviderStatus, Reach, Reached, Report
from shared import assigned
from shared.assignments import Assignment
from shared.bus.port import Bus
from shared.clock import NewId, Now
from shared.machines import MachineId, Role, WorkspaceName
from shared.patience import Waits
from shared.voice import Voice

SERVICE = "health"
STOPPED_SECONDS = 10.0
"""A check that took so much longer than its timeouts allow says something about us alone."""

Key = tuple[WorkspaceName, MachineId]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Watcher:
    subject: Subject
    task: asyncio.Task[None]


class Health:
    """``providers`` by the provider names of hosts; a host of another one has no provider status.

    ``ready`` is called once, when the assignments were read for the first time.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        providers: Mapping[str, ProviderStatus],
        reach: Reach,
        now: Now,
        new_id: NewId,
        ready: Callable[[], None],
        brake: Brake | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        waits: Waits | None = None,
    ) -> None:
        self._bus = bus
        self._providers = providers
        self._reach = reach
        self._waits = waits or Waits(now=now, sleep=sleep)
        self._voice = Voice(bus, SERVICE, now=now, new_id=new_id, waits=self._waits)
        self._ready = ready
        self._brake = brake or Brake()
        self._monotonic = monotonic
        self._sleep = sleep
        self._assignments: dict[WorkspaceName, Assignment] = {}
        self._watchers: dict[Key, _Watcher] = {}
        self._latest: dict[Key, Check] = {}

    async def run(self) -> None:
        """Until cancelled."""
        ready = False
        async with asyncio.TaskGroup() as group:
            async for found in assigned.read(self._bus, self._waits):
                news = [self._learn(assignment) for assignment in found]
                if any(news):
                    self._reconcile(group)
                if not ready:
                    self._ready()
                    ready = True

    # --- whom to watch ------------------------------------------------------------------

    def _learn(self, new: Assignment) -> bool:
        """Take in one assignment, unless we know a newer one. Returns whether others are watched.

        A key that is missing changes nothing: a bucket can lose its content, hosts do not.
        """
        known = self._assignments.get(new.workspace)
        if known is not None and (new.epoch, new.position) < (known.epoch, known.position):
            return False
        self._assignments[new.workspace] = new
        if new is known:
            return False  # what is read again unchanged is the same object
        return known is None or _watched(new) != _watched(known)

    def _reconcile(self, group: asyncio.TaskGroup) -> None:
        wanted = {
            (subject.workspace, subject.host.id): subject
            for assignment in self._assignments.values()
            for subject in _watched(assignment)
        }
        for key, watcher in list(self._watchers.items()):
            if not _same(wanted.get(key), watcher.subject):
                watcher.task.cancel()
                del self._watchers[key]
                self._latest.pop(key, None)
        for key, subject in wanted.items():
            if key not in self._watchers:
                self._watchers[key] = _Watcher(subject, group.create_task(self._watch(subject)))

    # --- one host -----------------------------------------------------------------------

    async def _watch(self, subject: Subject) -> None:
        failures = unknowns = 0
        while True:
            assignment = self._assignments[subject.workspace]
            policy = assignment.policy
            began = self._monotonic()
            check, signals, reached = await self._check(subject, assignment)
            seconds = self._monotonic() - began
            threshold = policy.failover_threshold
            unknowns, doubts = doubt(
                unknowns, check, subject=subject, threshold=threshold, failures=failures
            )
            failures, events = count(
                failures, check, subject=subject, threshold=threshold, now=self._voice.now()
            )
            sample = _sample(subject, check, signals, reached, failures=failures, seconds=seconds)
            await self._voice.sample(subject.workspace, "check", **sample)
            for event in (*doubts, *events):
                await self._voice.say(event)
            await self._sleep(max(0.0, began + policy.health_interval - self._monotonic()))

    async def _check(
        self, subject: Subject, assignment: Assignment
    ) -> tuple[Check, Signals, Reached]:
        policy = assignment.policy
        began = self._monotonic()
        report, reached = await asyncio.gather(
            self._report(subject, timeout=policy.probe_timeout, max_age=policy.health_interval / 2),
            self._reach.look(subject, host_ca=assignment.host_ca, timeout=policy.probe_timeout),
        )
        signals = Signals(
            provider=report.view,
            provider_text=report.text,
            tcp=reached.tcp,
            ssh=reached.ssh,
            reach_text=reached.text,
        )
        check = judge(signals)
        seconds = self._monotonic() - began
        if seconds > 3 * policy.probe_timeout + STOPPED_SECONDS:
            reason = f"the check took {seconds:.0f} s: this process was stopped meanwhile"
            check = Check(verdict=Verdict.UNKNOWN, reason=reason)
        self._latest[subject.workspace, subject.host.id] = check
        return witnessed(check, self._latest.values(), self._brake), signals, reached

    async def _report(self, subject: Subject, *, timeout: float, max_age: float) -> Report:
        provider = self._providers.get(subject.host.provider)
        if provider is None:
            return Report(ProviderView.NONE)
        try:
            async with asyncio.timeout(timeout):
                return await provider.report(subject.host.provider_id, max_age=max_age)
        except TimeoutError:
            return Report(ProviderView.UNREACHABLE, f"no answer within {timeout:g} s")


def _watched(assignment: Assignment) -> list[Subject]:
    if assignment.removed:
        return []
    standby = assignment.standby.id if assignment.standby else None
    return [
        Subject(
            workspace=assignment.workspace,
            epoch=assignment.epoch,
            host=host,
            role=Role.STANDBY if host.id == standby else Role.GPU,
        )
        for host in assignment.watch
    ]


def _same(wanted: Subject | None, watched: Subject) -> bool:
    """Whether it is still the same host in the same epoch; its price or description may differ."""
    return wanted is not None and _identity(wanted) == _identity(watched)


def _identity(subject: Subject) -> tuple[object, ...]:
    host = subject.host
    return subject.epoch, subject.role, host.provider, host.provider_id, host.address, host.port


def _sample(
    subject: Subject,
    check: Check,
    signals: Signals,
    reached: Reached,
    *,
    failures: int,
    seconds: float,
) -> dict[str, object]:
    return {
        "machine": subject.host.id,
        "role": subject.role.value,
        "epoch": subject.epoch,
        "verdict": check.verdict.value,
        "positive": check.positive,
        "reason": check.reason,
        "failures": failures,
        "provider": signals.provider.value,
        "tcp": signals.tcp.value,
        "ssh": signals.ssh.value,
        "seconds": round(seconds, 3),
        "heartbeat": dict(reached.heartbeat),
    }
