"""Which job of a workspace is due: from its assignment and what was done so far.

A workspace has two lanes. COPY brings data into the store (a pull from the GPU, or a seal of the
tree that people work on), RESTORE sends a generation to a candidate. One job a lane at a time;
the lanes do not wait for each other, except that a pass of a restore sends what the assignment
asked to be sealed first.

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


class Lane(StrEnum):
    """Jobs of one lane come one after the other."""

    COPY = "copy"
    RESTORE = "restore"


class Kind(StrEnum):
    """What a job does."""

    PULL = "pull"
    SEAL = "seal"
    PUSH = "push"


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
        return Lane.RESTORE if self.kind is Kind.PUSH else Lane.COPY


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """The newest generation, as a job of this process saw it and told of it."""

    generation: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was done for a workspace, since the source of its data last changed.

    ``seal`` is the newest asked seal that a finished copy covers; it starts below any that can be
    asked for, so that the first copy from each source is always reported; ``told_at`` is when a
    copy was last told of. ``failures`` counts copies in a row that failed in the same way,
    ``failure`` is the code of the last one.
    """

    newest: Newest | None = None
    seal: int = -1
    told_at: float = 0.0
    final_sealed: bool = False
    copy_at: float = 0.0
    failures: int = 0
    failure: str = ""
    pushed: tuple[int, int, bool] | None = None
    push_at: float = 0.0


def due(assignment: Assignment, done: Done, now: float) -> tuple[Job, ...]:
    """The jobs to begin now, at most one a lane."""
    jobs = (_copy_due(assignment, done, now), _push_due(assignment, done, now))
    return tuple(job for job in jobs if job is not None)


def next_at(assignment: Assignment, done: Done, now: float) -> float | None:
    """When a job may be due that is not due at ``now``, unless something happens before."""
    times = []
    if _copy_job(assignment) is not None:
        times.append(done.copy_at)
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
    return job if asked or now >= done.copy_at else None


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
        failures=0,
        failure="",
    )


def told(done: Done, now: float) -> Done:
    """It was said what the newest generation is."""
    return replace(done, told_at=now)


def to_confirm(assignment: Assignment, done: Done, now: float) -> bool:
    """Whether it is time to say that the newest generation is still all that the GPU has.

    Several times within the age at which the policy would call the copy stale.
    """
    mirrors = assignment.mode is SyncMode.MIRROR
    pause = assignment.policy.generation_age_max / CONFIRMATIONS
    return mirrors and now - done.told_at >= pause


def to_report(done: Done, job: Job, generation: str) -> bool:
    """Whether a finished copy is news: a generation not told of yet, or one that was asked for.

    Asked of ``done`` as it was before the copy.
    """
    told = done.newest.generation if done.newest else None
    return generation != told or job.seal > done.seal


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
