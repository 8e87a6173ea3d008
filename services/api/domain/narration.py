"""One plain sentence for each event: the timeline that people read.

``tell`` says what happened, with the numbers; ``severity`` how much it should worry them. An
event without a sentence of its own would be told by its bare name: a test allows none.
"""

from enum import StrEnum
from functools import singledispatch

from services.api.domain.wording import clock, count, generation, price, size, span
from shared.events import health, recovery, requests, sync
from shared.events.base import Event
from shared.machines import Host, Role


class Severity(StrEnum):
    """INFO: it goes on; SUCCESS: good news; WARNING: less protected; CRITICAL: people are hit."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    CRITICAL = "critical"


_SEVERITIES: dict[type[Event], Severity] = {
    recovery.StandbyProvisioned: Severity.SUCCESS,
    recovery.StandbyRestored: Severity.SUCCESS,
    recovery.StandbyStale: Severity.WARNING,
    recovery.StandbyThawed: Severity.SUCCESS,
    recovery.FailoverCompleted: Severity.SUCCESS,
    recovery.PrimaryFenced: Severity.SUCCESS,
    recovery.OrphanDestroyed: Severity.SUCCESS,
    recovery.FailbackCompleted: Severity.SUCCESS,
    recovery.RecoveryCompleted: Severity.SUCCESS,
    recovery.SyncResumed: Severity.SUCCESS,
    health.HealthRestored: Severity.SUCCESS,
    sync.RestoreDone: Severity.SUCCESS,
    health.HealthFailed: Severity.WARNING,
    health.HealthUnknown: Severity.WARNING,
    recovery.FailoverRefused: Severity.WARNING,
    recovery.ProvisionFailed: Severity.WARNING,
    recovery.RequestRefused: Severity.WARNING,
    recovery.RollbackRefused: Severity.WARNING,
    recovery.EffectFailing: Severity.WARNING,
    recovery.WaitScheduled: Severity.WARNING,
    recovery.WorkspacePaused: Severity.WARNING,
    recovery.WorkspaceRemoved: Severity.WARNING,
    recovery.ZombieSeen: Severity.WARNING,
    recovery.FailbackAborted: Severity.WARNING,
    sync.SyncFailed: Severity.WARNING,
    sync.GenerationHeld: Severity.WARNING,
    sync.RestoreFailed: Severity.WARNING,
    health.ThresholdReached: Severity.CRITICAL,
    recovery.FailoverStarted: Severity.CRITICAL,
    recovery.StandbyLost: Severity.CRITICAL,
    recovery.RecoveryHalted: Severity.CRITICAL,
    recovery.SpendLimitReached: Severity.WARNING,
}


def severity(event: Event) -> Severity:
    """How much this event should worry a person."""
    return _SEVERITIES.get(type(event), Severity.INFO)


def evidence(event: Event) -> tuple[str, ...]:
    """What a verdict rests on, in the words of who saw it; empty for most events."""
    found = getattr(event, "evidence", ())
    return tuple(str(item) for item in found)


@singledispatch
def tell(event: Event) -> str:
    """What happened, in one sentence. Lower case, no full stop."""
    return event.type


# --- requests ------------------------------------------------------------------------------------


@tell.register
def _(event: requests.RequestReceived) -> str:
    reason = event.arguments.get("reason")
    return f"request by {event.actor}: {event.verb}{f', {reason}' if reason else ''}"


@tell.register
def _(event: recovery.RequestRefused) -> str:
    return f"request refused: {event.verb}: {event.reason}{_hint(event.hint)}"


@tell.register
def _(event: recovery.RequestAccepted) -> str:
    if event.verb == "uploaded":
        return "the upload is complete: the first generation is to be sealed"
    return f"request taken: {event.verb}"


# --- the workspace -------------------------------------------------------------------------------


@tell.register
def _(event: recovery.WorkspaceRegistered) -> str:
    data = {
        "empty": "empty",
        "uploaded": "its data to be uploaded",
        "adopted": f"adopted from {_where(event.adopted)}",
    }.get(event.origin, event.origin)
    return f"workspace registered: {event.path}, {data}, endpoint port {event.endpoint_port}"


@tell.register
def _(event: recovery.WorkspaceRemoved) -> str:
    return f"workspace removed{_by(event.actor)}: its machines are given back"


@tell.register
def _(event: recovery.WorkspacePaused) -> str:
    reason = f": {event.reason}" if event.reason else ""
    return f"automatic failover and recovery paused{_by(event.actor)}{reason}"


@tell.register
def _(event: recovery.WorkspaceResumed) -> str:
    return f"automatic failover and recovery on again{_by(event.actor)}"


@tell.register
def _(event: recovery.GenerationAccepted) -> str:
    return f"the smaller source was accepted{_by(event.actor)}: the next sync may seal it"


# --- health --------------------------------------------------------------------------------------


@tell.register
def _(event: health.HealthFailed) -> str:
    failures = f"{event.failures} of {event.threshold}"
    return f"check of the {_role(event.role)} failed, {failures}: {event.reason}"


@tell.register
def _(event: health.ThresholdReached) -> str:
    source = "by the provider's own word" if event.positive else "by its silence"
    return (
        f"the {_role(event.role)} counts as dead {source} after "
        f"{count(event.failures, 'failed check')} in a row: {event.reason}"
    )


@tell.register
def _(event: health.HealthRestored) -> str:
    if not event.failures_before:
        return f"the {_role(event.role)} answers again"
    failures = count(event.failures_before, "failed check")
    return f"the {_role(event.role)} answers again after {failures}"


@tell.register
def _(event: health.HealthUnknown) -> str:
    return (
        f"{count(event.checks, 'check')} could not tell whether the {_role(event.role)} lives, "
        f"and nothing is given up for it: {event.reason}"
    )


# --- machines ------------------------------------------------------------------------------------


@tell.register
def _(event: recovery.OfferSelected) -> str:
    return (
        f"attempt {event.attempt}: {count(event.offers_seen, 'offer')} seen, chose "
        f"{event.description} at {price(event.price_per_hour)}, bid {price(event.bid)}: {event.why}"
    )


@tell.register
def _(event: recovery.ProvisionRequested) -> str:
    if event.role is Role.STANDBY:
        kind = ", on demand" if event.on_demand else ""
        return f"creating the standby as {event.label}, attempt {event.attempt}{kind}"
    return f"renting a GPU as {event.label}, attempt {event.attempt}, bid {price(event.bid)}"


@tell.register
def _(event: recovery.GpuProvisioned) -> str:
    return (
        f"GPU rented: {_where(event.host)} at {price(event.host.price_per_hour)}; "
        f"it has until {clock(event.ssh_deadline)} to answer SSH"
    )


@tell.register
def _(event: recovery.StandbyProvisioned) -> str:
    return f"the standby is up: {_where(event.host)} at {price(event.host.price_per_hour)}"


@tell.register
def _(event: recovery.ProvisionFailed) -> str:
    what = "standby" if event.role is Role.STANDBY else "GPU"
    return (
        f"{what} attempt {event.attempt} failed ({event.stage}): {event.reason}{_hint(event.hint)}"
    )


@tell.register
def _(event: recovery.EffectFailing) -> str:
    return (
        f"{event.effect} failed {event.tries} times and is tried on: "
        f"{event.reason}{_hint(event.hint)}"
    )


@tell.register
def _(event: recovery.WaitScheduled) -> str:
    what = " for a standby" if event.role is Role.STANDBY else ""
    when = clock(event.until)
    return f"attempt {event.attempt}{what} at {when}: {event.reason}{_hint(event.hint)}"


@tell.register
def _(event: recovery.WaitEnded) -> str:
    if event.attempt == 0:
        who = "standby is lost" if event.role is Role.STANDBY else "primary is dead"
        return f"looking again whether the {who}"
    what = "a standby" if event.role is Role.STANDBY else "a GPU"
    return f"the wait is over: attempt {event.attempt} at {what}"


@tell.register
def _(event: recovery.GpuReady) -> str:
    return f"the GPU answers SSH and is prepared: {_where(event.host)}"


@tell.register
def _(event: recovery.PrimaryFenced) -> str:
    return f"the old {_role(event.role)} {event.machine} was seen {event.how}: it cannot serve"


@tell.register
def _(event: recovery.FenceDelayed) -> str:
    return (
        f"the host of {event.machine} is off the market: it costs nothing, and its end is awaited"
    )


@tell.register
def _(event: recovery.ZombieSeen) -> str:
    return f"{event.machine} ({event.provider} {event.provider_id}) runs again: {event.reason}"


@tell.register
def _(event: recovery.OrphanDestroyed) -> str:
    return f"{event.machine} ({event.provider_id}) was destroyed and seen gone: {event.reason}"


@tell.register
def _(event: recovery.StandbyLost) -> str:
    disk = ", and its disk with it" if event.gone else ""
    return (
        f"the standby {event.machine} is lost{disk}: {event.reason}; no failover until it is back"
    )


@tell.register
def _(event: recovery.StandbyLossRefused) -> str:
    again = f"; looking again at {clock(event.recheck_at)}" if event.recheck_at else ""
    return f"the standby is not given up: {event.reason}{again}"


@tell.register
def _(event: recovery.StandbyStale) -> str:
    return f"the copy is stale: {event.reason}{_hint(event.hint)}"


@tell.register
def _(event: recovery.RenewalDue) -> str:
    return f"the host certificate of {event.machine} is to be renewed"


@tell.register
def _(event: recovery.HostRenewed) -> str:
    return f"{event.machine} has a new host certificate; the next at {clock(event.renew_at)}"


@tell.register
def _(event: recovery.StandbyRestored) -> str:
    return f"a standby is back: {_where(event.host)}; it is being seeded"


# --- failover ------------------------------------------------------------------------------------


@tell.register
def _(event: recovery.RollbackRequested) -> str:
    return (
        f"{event.actor} wants the data from before {event.before:%Y-%m-%d %H:%M:%S} UTC: "
        f"{event.reason}; looking for a copy"
    )


@tell.register
def _(event: recovery.RollbackRefused) -> str:
    return f"nothing was given up to go back: {event.reason}{_hint(event.hint)}"


@tell.register
def _(event: recovery.FailoverStarted) -> str:
    who = "" if event.actor in {"", "recovery"} else f", asked by {event.actor}"
    back = f", going back to generation {generation(event.generation)}" if event.generation else ""
    given_up = f"{event.machine} is given up{who}{back}: {event.reason}"
    return f"failover to epoch {event.epoch}: {given_up}"


@tell.register
def _(event: recovery.FailoverRefused) -> str:
    again = f"; looking again at {clock(event.recheck_at)}" if event.recheck_at else ""
    return f"no failover: {event.reason}{_hint(event.hint)}{again}"


@tell.register
def _(event: recovery.FailoverCompleted) -> str:
    age = event.generation_age_seconds
    aged = "" if age is None else f", {span(age)} old when the GPU was given up"
    newer = ", ".join(generation(damaged) for damaged in event.damaged)
    passed_over = f"; damaged on its disk and passed over: {newer}" if newer else ""
    return (
        f"failover complete: the standby serves generation {generation(event.generation)}{aged}, "
        f"{span(event.seconds)} after the decision{passed_over}"
    )


# --- recovery and failback -----------------------------------------------------------------------


@tell.register
def _(event: recovery.RecoveryStarted) -> str:
    return f"recovery started: {event.reason}"


@tell.register
def _(event: recovery.SpendLimitReached) -> str:
    spent, maximum = event.spent, event.maximum
    return f"nothing is rented: {spent:.2f} $ of {maximum:.2f} $ per {event.window} are spent"


@tell.register
def _(event: recovery.NoticeSent) -> str:
    return f"people were told ({event.channel}): {event.text}"


@tell.register
def _(event: recovery.RecoveryHalted) -> str:
    return f"recovery halted, a person must act: {event.reason}{_hint(event.hint)}"


@tell.register
def _(event: recovery.FailbackStarted) -> str:
    return (
        f"failback to {event.machine}: little is left to copy, freezing the standby "
        f"until {clock(event.freeze_deadline)} at the latest"
    )


@tell.register
def _(event: recovery.StandbyFrozen) -> str:
    return "the standby is frozen: sealing it and sending the last delta"


@tell.register
def _(event: recovery.FailbackAborted) -> str:
    return (
        f"failback put off: {event.reason}; the standby serves on, "
        f"next try after {clock(event.retry_at)}"
    )


@tell.register
def _(event: recovery.StandbyThawed) -> str:
    return "people can write on the standby again"


@tell.register
def _(event: recovery.FailbackVerified) -> str:
    return (
        f"generation {generation(event.generation)} is on {event.machine} and verified: "
        f"switching the endpoint, epoch {event.epoch}"
    )


@tell.register
def _(event: recovery.FailbackCompleted) -> str:
    return f"failback complete: {event.machine} serves, writes paused {span(event.pause_seconds)}"


@tell.register
def _(event: recovery.SyncResumed) -> str:
    return f"sync resumed: generation {generation(event.generation)} is the GPU's first"


@tell.register
def _(event: recovery.RecoveryCompleted) -> str:
    attempts = count(event.attempts, "attempt")
    return f"recovered: on {event.machine} and protected, after {attempts}"


# --- sync ----------------------------------------------------------------------------------------


@tell.register
def _(event: sync.SyncCompleted) -> str:
    moving = (
        f"; {count(event.files_changing, 'file')} changed while copying"
        if event.files_changing
        else ""
    )
    return (
        f"generation {generation(event.generation)} sealed: {count(event.files, 'file')}, "
        f"{size(event.bytes)}, {size(event.bytes_changed)} new, in {span(event.seconds)}{moving}"
    )


@tell.register
def _(event: sync.GenerationConfirmed) -> str:
    return f"generation {generation(event.generation)} is still all there is on {event.source}"


@tell.register
def _(event: sync.SyncFailed) -> str:
    return f"sync from {event.source} failed: {event.reason}{_hint(event.hint)}"


@tell.register
def _(event: sync.GenerationHeld) -> str:
    return (
        f"the copy is held: {event.reason} ({event.files_before:,} files, "
        f"{size(event.bytes_before)} before; {event.files_now:,}, {size(event.bytes_now)} now); "
        "accept it if that is right"
    )


@tell.register
def _(event: sync.RestoreProgressed) -> str:
    done, total = event.bytes_done, event.bytes_total
    percent = 100 if total <= 0 else min(100, 100 * done // total)
    return f"restore to {event.machine}: {size(done)} of {size(total)}, {percent} %"


@tell.register
def _(event: sync.RestoreDone) -> str:
    which = "last delta" if event.final else f"restore round {event.round}"
    return (
        f"{which} done: generation {generation(event.generation)}, {count(event.files, 'file')}, "
        f"{size(event.bytes)} verified by hash, {size(event.bytes_copied)} copied "
        f"in {span(event.seconds)}"
    )


@tell.register
def _(event: sync.RestoreFailed) -> str:
    blame = ", the new GPU is lost" if event.candidate_lost else ""
    return f"restore round {event.round} failed{blame}: {event.reason}{_hint(event.hint)}"


# --- parts ---------------------------------------------------------------------------------------


def _by(actor: str) -> str:
    return f" by {actor}" if actor else ""


def _hint(hint: str) -> str:
    return f" ({hint})" if hint else ""


def _role(role: Role) -> str:
    return "GPU" if role is Role.GPU else "standby"


def _where(host: Host | None) -> str:
    if host is None:
        return "no host"
    what = f"{host.description}, " if host.description else ""
    return f"{what}{host.provider} {host.provider_id or host.id}"
