"""Which job of a workspace is due: from its assignment and what was done so far.

A workspace has three lanes. COPY brings data into the store (a pull from the GPU, or a seal of the
tree that people work on), RESTORE sends a generation to a candidate, WATCH hears from the GPU that
something changed there, which makes the next copy sooner. One job a lane at a time; the lanes do
not wait for each other, except that a pass of a restore sends what the assignment asked to be
sealed first.

Times are seconds of a steady clock. Nothing here knows how a job is done.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from shared.assignments import Assignment, SyncMode
from shared.machines import Host, MachineId

RETRY_SECONDS = 5.0
"""The longest wait before a failed pass of a restore is tried again."""

FROZEN_RETRY_SECONDS = 1.0
"""While the standby is frozen nobody can work: what fails then is tried again at once."""

SAY_AGAIN = 10
"""A failure that goes on is said at first and then each so many times."""

QUARTERS = 4

CONFIRMATIONS = 3
"""So often an unchanged copy is said to be fresh within the age that the policy allows."""


SETTLE_SECONDS = 0.2
"""What is written together is copied together."""

PAUSE_SECONDS_MIN = 1.0
PAUSE_SHARE = 4.0
"""Between the begins of two copies of what was noticed: so many times what the last one took, so
that a tree that is costly to look through is not looked through all the time."""

FOLLOW_PAUSE_FIRST, FOLLOW_PAUSE_MAX = 5.0, 300.0
"""Before a watch that ended is begun again; while there is none the interval alone holds."""


class Lane(StrEnum):
    """Jobs of one lane come one after the other."""

    COPY = "copy"
    RESTORE = "restore"
    WATCH = "watch"


class Kind(StrEnum):
    """What a job does."""

    PULL = "pull"
    SEAL = "seal"
    PUSH = "push"
    FOLLOW = "follow"


_LANES = {
    Kind.PULL: Lane.COPY,
    Kind.SEAL: Lane.COPY,
    Kind.PUSH: Lane.RESTORE,
    Kind.FOLLOW: Lane.WATCH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One thing to do. ``machine`` is the host that data comes from, or goes to in a push.

    ``seal`` is the newest seal that the assignment had asked for when the job was made, ``final``
    that nobody could write on the standby by then.
    """

    kind: Kind
    epoch: int
    standby: MachineId
    machine: MachineId
    seal: int = 0
    attempt: int = 0
    round: int = 0
    final: bool = False

    @property
    def lane(self) -> Lane:
        return _LANES[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """The newest generation, as a job of this process saw it and told of it."""

    generation: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was done for a workspace, since the source of its data last changed.

    ``seal`` is the newest asked seal that a finished copy covers; it starts below any that can be
    asked for, so that the first copy from each source is always reported; ``told`` is the
    generation that was last told of, at ``told_at``. ``noticed_at`` is when the GPU first told of a
    change since the last copy began, at ``copy_began``; it took ``copy_took``. ``failures`` counts
    copies in a row that failed in the same way, ``failure`` is the code of the last one.
    """

    newest: Newest | None = None
    seal: int = -1
    told: str = ""
    told_at: float = 0.0
    noticed_at: float | None = None
    copy_began: float = 0.0
    copy_took: float = 0.0
    follow_at: float = 0.0
    follow_failures: int = 0
    final_sealed: bool = False
    copy_at: float = 0.0
    failures: int = 0
    failure: str = ""
    pushed: tuple[int, int, bool] | None = None
    push_at: float = 0.0


def due(assignment: Assignment, done: Done, now: float) -> tuple[Job, ...]:
    """The jobs to begin now, at most one a lane."""
    jobs = (
        _copy_due(assignment, done, now),
        _push_due(assignment, done, now),
        _follow_due(assignment, done, now),
    )
    return tuple(job for job in jobs if job is not None)


def next_at(assignment: Assignment, done: Done, now: float) -> float | None:
    """When a job may be due that is not due at ``now``, unless something happens before."""
    times = []
    if _copy_job(assignment) is not None:
        times.append(_copy_at(done))
    if _follow_job(assignment) is not None:
        times.append(done.follow_at)
    if _push_job(assignment) is not None:
        times.append(done.push_at)
    return min((at for at in times if at > now), default=None)


def _source(assignment: Assignment) -> tuple[Kind, Host] | None:
    """Where the data of a workspace is written now; None when there is nothing to copy."""
    if assignment.removed or assignment.standby is None:
        return None
    match assignment.mode:
        case SyncMode.MIRROR:
            return (Kind.PULL, assignment.primary) if assignment.primary else None
        case SyncMode.SERVE | SyncMode.RESTORE | SyncMode.FINAL:
            return (Kind.SEAL, assignment.standby)
        case SyncMode.IDLE:
            return None


def _copy_job(assignment: Assignment) -> Job | None:
    source = _source(assignment)
    if source is None or assignment.standby is None:
        return None
    kind, host = source
    return Job(
        kind=kind,
        epoch=assignment.epoch,
        standby=assignment.standby.id,
        machine=host.id,
        seal=assignment.seal,
        final=assignment.mode is SyncMode.FINAL,
    )


def _copy_due(assignment: Assignment, done: Done, now: float) -> Job | None:
    job = _copy_job(assignment)
    if job is None or (job.final and done.final_sealed):
        return None
    asked = (job.final or job.seal > done.seal) and not done.failures
    return job if asked or now >= _copy_at(done) else None


def _copy_at(done: Done) -> float:
    """When the next copy is due by itself: at the interval, or soon after a change was noticed."""
    if done.noticed_at is None or done.failures:
        return done.copy_at
    pause = max(PAUSE_SECONDS_MIN, PAUSE_SHARE * done.copy_took)
    return min(done.copy_at, max(done.noticed_at + SETTLE_SECONDS, done.copy_began + pause))


def _follow_job(assignment: Assignment) -> Job | None:
    primary, standby = assignment.primary, assignment.standby
    mirrors = assignment.mode is SyncMode.MIRROR and not assignment.removed
    if not mirrors or primary is None or standby is None or not assignment.policy.watch:
        return None
    return Job(kind=Kind.FOLLOW, epoch=assignment.epoch, standby=standby.id, machine=primary.id)


def _follow_due(assignment: Assignment, done: Done, now: float) -> Job | None:
    """Once there is a first copy: before that everything is new."""
    job = _follow_job(assignment)
    return job if done.newest is not None and now >= done.follow_at else None


def _push_job(assignment: Assignment) -> Job | None:
    sending = assignment.mode in {SyncMode.RESTORE, SyncMode.FINAL} and not assignment.removed
    if not sending or assignment.standby is None or assignment.candidate is None:
        return None
    return Job(
        kind=Kind.PUSH,
        epoch=assignment.epoch,
        standby=assignment.standby.id,
        machine=assignment.candidate.id,
        attempt=assignment.attempt,
        round=assignment.round,
        final=assignment.mode is SyncMode.FINAL,
    )


def _push_due(assignment: Assignment, done: Done, now: float) -> Job | None:
    job = _push_job(assignment)
    if job is None or done.newest is None or done.pushed == _pass(job):
        return None
    sealed = done.final_sealed if job.final else done.seal >= assignment.seal
    return job if sealed and now >= done.push_at else None


def _pass(job: Job) -> tuple[int, int, bool]:
    return job.attempt, job.round, job.final


def still_wanted(job: Job, assignment: Assignment) -> bool:
    """Whether a running job is to go on under a changed assignment.

    A copy that began before the standby was frozen cannot be the last one, so it makes room.
    """
    if job.kind is Kind.PUSH:
        return _push_job(assignment) == job
    if job.kind is Kind.FOLLOW:
        return _follow_job(assignment) == job
    wanted = _copy_job(assignment)
    return wanted is not None and replace(wanted, seal=job.seal) == job


def adopt(done: Done, before: Assignment | None, after: Assignment) -> Done:
    """What counts as done once a new assignment holds."""
    if before is None or _origin(before) != _origin(after):
        return Done()
    if after.accept_shrink and not before.accept_shrink:
        done = replace(done, copy_at=0.0, failures=0, failure="")
    if (before.mode, before.attempt) != (after.mode, after.attempt):
        done = replace(done, final_sealed=False, pushed=None, failures=0, push_at=0.0)
    if before.round != after.round:
        done = replace(done, push_at=0.0)
    return done


def _origin(assignment: Assignment) -> tuple[object, ...]:
    """A copy of another source, in another place or epoch is another matter altogether."""
    standby = assignment.standby.id if assignment.standby else None
    mirrors = assignment.mode is SyncMode.MIRROR
    primary = assignment.primary.id if mirrors and assignment.primary else None
    return assignment.epoch, standby, primary


# --- outcomes --------------------------------------------------------------------------------


def copy_begun(done: Done, now: float) -> Done:
    """A copy begins: what changes from here on is for the next one."""
    return replace(done, noticed_at=None, copy_began=now)


def noticed(done: Done, now: float) -> Done:
    """The GPU told of a change."""
    return replace(done, noticed_at=now) if done.noticed_at is None else done


def follow_ended(done: Done, now: float, *, heard: bool) -> Done:
    """A watch ended: what changes until the next one listens is looked for once.

    ``heard``: it had begun at all.
    """
    failures = 0 if heard else done.follow_failures + 1
    pause = min(FOLLOW_PAUSE_FIRST * 2.0 ** min(failures, 16), FOLLOW_PAUSE_MAX)
    return noticed(replace(done, follow_at=now + pause, follow_failures=failures), now)


def copied(
    done: Done, job: Job, newest: Newest, *, interval: float, began: float, now: float
) -> Done:
    """A copy ended well; the next one begins an interval after this one began."""
    return replace(
        done,
        newest=newest,
        seal=max(done.seal, job.seal),
        final_sealed=done.final_sealed or job.final,
        copy_at=max(began + interval, now),
        copy_took=now - began,
        failures=0,
        failure="",
    )


def told(done: Done, generation: str, now: float) -> Done:
    """It was said that this is the newest generation."""
    return replace(done, told=generation, told_at=now)


def to_confirm(assignment: Assignment, done: Done, now: float) -> bool:
    """Whether it is time to say that the newest generation is still all that the GPU has.

    Several times within the age at which the policy would call the copy stale.
    """
    mirrors = assignment.mode is SyncMode.MIRROR
    pause = assignment.policy.generation_age_max / CONFIRMATIONS
    return mirrors and now - done.told_at >= pause


def to_report(done: Done, job: Job, generation: str, *, interval: float, now: float) -> bool:
    """Whether a finished copy is news: a generation not told of yet, or one that was asked for.

    What changes all the time is copied all the time, and told of once an interval. Asked of
    ``done`` as it was before the copy.
    """
    first = not done.told or now - done.told_at >= interval
    return (generation != done.told and first) or job.seal > done.seal


def copy_failed(done: Done, job: Job, code: str, *, interval: float, now: float) -> Done:
    """A copy failed or was held; it is tried again after the interval."""
    wait = FROZEN_RETRY_SECONDS if job.final else interval
    failures = done.failures + 1 if code == done.failure else 1
    return replace(done, copy_at=now + wait, failures=failures, failure=code)


def failure_is_news(done: Done) -> bool:
    """Whether the failure that ``copy_failed`` just counted is to be said, or goes on as known."""
    return done.failures % SAY_AGAIN == 1


def pushed(done: Done, job: Job) -> Done:
    """A pass of a restore is done and verified."""
    return replace(done, pushed=_pass(job), push_at=0.0)


def push_failed(done: Done, job: Job, *, interval: float, now: float) -> Done:
    """A pass failed; unless the assignment changes it is tried again."""
    wait = FROZEN_RETRY_SECONDS if job.final else min(interval, RETRY_SECONDS)
    return replace(done, push_at=now + wait)


def quarter(bytes_done: int, bytes_total: int) -> int:
    """How many quarters of a transfer are over: 0 to 4."""
    if bytes_total <= 0:
        return QUARTERS
    return min(QUARTERS, bytes_done * QUARTERS // bytes_total)
