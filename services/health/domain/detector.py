"""From signals to a verdict, and from verdicts to events. Unknown is a third answer, never death.

A check looks three ways: what the provider says, whether TCP connects, whether the gate answers
over SSH. Only two things make it fail: the provider's own word that the machine does not run, or
silence where nothing suggests that the silence is ours.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from shared.events.health import HealthFailed, HealthRestored, HealthUnknown, ThresholdReached
from shared.machines import Host, Role, WorkspaceName


class ProviderView(StrEnum):
    """What the provider says of a machine, or why it says nothing."""

    RUNNING = "running"
    BOOTING = "booting"
    STOPPED = "stopped"
    FAILED = "failed"
    GONE = "gone"
    LOST = "lost"  # the provider itself has lost touch with it
    ERROR = "error"  # it answered, and not what was asked: it claims nothing
    UNREACHABLE = "unreachable"  # nobody answered us there: is it our own network?
    NONE = "none"  # a host without a provider, or no key to ask with


class Tcp(StrEnum):
    CONNECTS = "connects"
    SILENT = "silent"
    UNKNOWN = "unknown"  # this machine itself could not try


class Ssh(StrEnum):
    ANSWERS = "answers"
    SILENT = "silent"
    UNKNOWN = "unknown"  # somebody lives there, but our login or their answer is no good
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What one check saw; each ``_text`` is for people."""

    provider: ProviderView
    tcp: Tcp
    ssh: Ssh
    provider_text: str = ""
    reach_text: str = ""

    @property
    def silent(self) -> bool:
        return self.tcp is Tcp.SILENT or self.ssh is Ssh.SILENT

    @property
    def evidence(self) -> tuple[str, ...]:
        provider = f"provider: {self.provider}"
        if self.provider_text and self.provider_text != self.provider:
            provider += f" ({self.provider_text})"
        reach = f"tcp: {self.tcp}, ssh: {self.ssh}"
        return (provider, f"{reach} ({self.reach_text})" if self.reach_text else reach)


class Verdict(StrEnum):
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """``positive``: the provider itself says so; otherwise a failure rests on silence alone."""

    verdict: Verdict
    reason: str
    positive: bool = False
    evidence: tuple[str, ...] = ()

    @property
    def by_silence(self) -> bool:
        return self.verdict is Verdict.FAILED and not self.positive


_NOT_RUNNING = {ProviderView.STOPPED, ProviderView.FAILED, ProviderView.GONE}


def judge(signals: Signals) -> Check:
    """The verdict of one check, seen alone."""
    said = signals.provider_text or signals.provider.value
    if signals.provider in _NOT_RUNNING:
        return _check(Verdict.FAILED, f"the provider says: {said}", signals, positive=True)
    if signals.ssh is Ssh.ANSWERS:
        return _check(Verdict.OK, "answers", signals)
    if not signals.silent:
        reason = signals.reach_text or "no answer that can be judged"
        return _check(Verdict.UNKNOWN, f"not the host's fault: {reason}", signals)
    if signals.provider is ProviderView.LOST:
        reason = f"silent, and the provider says: {said}"
        return _check(Verdict.FAILED, reason, signals, positive=True)
    if signals.provider is ProviderView.UNREACHABLE:
        reason = "neither the host nor its provider answers: our own network is in doubt"
        return _check(Verdict.UNKNOWN, reason, signals)
    return _check(Verdict.FAILED, f"silent: {signals.reach_text or 'no answer'}", signals)


def _check(verdict: Verdict, reason: str, signals: Signals, *, positive: bool = False) -> Check:
    return Check(verdict=verdict, reason=reason, positive=positive, evidence=signals.evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """When this share of at least so many watched hosts is silent at once, it is us."""

    share: float = 1.0
    hosts_min: int = 3


def witnessed(check: Check, latest: Collection[Check], brake: Brake) -> Check:
    """The verdict in the light of all hosts' latest checks (this one among them)."""
    if not check.by_silence or len(latest) < brake.hosts_min:
        return check
    silent = sum(other.by_silence for other in latest)
    if silent < brake.share * len(latest):
        return check
    return replace(
        check,
        verdict=Verdict.UNKNOWN,
        reason=f"{silent} of {len(latest)} watched hosts are silent at once: "
        "our own network is in doubt",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a counter is about. Another host or another epoch is another subject."""

    workspace: WorkspaceName
    epoch: int
    host: Host
    role: Role


Event = HealthFailed | ThresholdReached | HealthUnknown | HealthRestored


def count(
    failures: int,
    check: Check,
    *,
    subject: Subject,
    threshold: int,
    now: datetime | None = None,
) -> tuple[int, tuple[Event, ...]]:
    """The failed checks in a row after this one (at ``now``), and what there is to say.

    Each failure is said up to the threshold. At the threshold the host counts as dead, which is
    repeated after as many checks again while it lasts. Unknown changes nothing.
    """
    if check.verdict is Verdict.UNKNOWN:
        return failures, ()
    if check.verdict is Verdict.OK:
        return 0, (_restored(subject, failures),) if failures else ()
    failures += 1
    events: tuple[Event, ...] = ()
    if failures <= threshold:
        events += (_failed(subject, check, failures, threshold),)
    if failures % threshold == 0:
        events += (replace(_reached(subject, check, failures, threshold), seen_at=now),)
    return failures, events


def doubt(
    unknowns: int, check: Check, *, subject: Subject, threshold: int, failures: int
) -> tuple[int, tuple[Event, ...]]:
    """The checks in a row after this one that told nothing, and what there is to say.

    Said once, at the threshold. ``failures``: those before this check, whose end is said by
    ``count``.
    """
    if check.verdict is Verdict.UNKNOWN:
        unknowns += 1
        return unknowns, (_unknown(subject, check, unknowns),) if unknowns == threshold else ()
    over = unknowns >= threshold and check.verdict is Verdict.OK and not failures
    return 0, (_restored(subject, 0),) if over else ()


def _unknown(subject: Subject, check: Check, checks: int) -> HealthUnknown:
    return HealthUnknown(
        workspace=subject.workspace,
        epoch=subject.epoch,
        machine=subject.host.id,
        role=subject.role,
        checks=checks,
        reason=check.reason,
        evidence=check.evidence,
    )


def _failed(subject: Subject, check: Check, failures: int, threshold: int) -> HealthFailed:
    return HealthFailed(
        workspace=subject.workspace,
        epoch=subject.epoch,
        machine=subject.host.id,
        role=subject.role,
        failures=failures,
        threshold=threshold,
        reason=check.reason,
        evidence=check.evidence,
    )


def _reached(subject: Subject, check: Check, failures: int, threshold: int) -> ThresholdReached:
    return ThresholdReached(
        workspace=subject.workspace,
        epoch=subject.epoch,
        machine=subject.host.id,
        role=subject.role,
        failures=failures,
        threshold=threshold,
        reason=check.reason,
        positive=check.positive,
        evidence=check.evidence,
    )


def _restored(subject: Subject, failures: int) -> HealthRestored:
    return HealthRestored(
        workspace=subject.workspace,
        epoch=subject.epoch,
        machine=subject.host.id,
        role=subject.role,
        failures_before=failures,
    )
