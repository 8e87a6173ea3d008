"""What the data plane is to do when: decisions alone, without a clock."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sync.domain import mirror
from services.sync.domain.mirror import Done, Job, Kind, Newest
from shared.assignments import Assignment, SyncMode
from shared.policy import Policy
from tests.unit.sync.workspace import CANDIDATE, GPU, STANDBY, assignment

INTERVAL = 30.0


def kinds(jobs: tuple[Job, ...]) -> set[Kind]:
    return {job.kind for job in jobs}


def sealed(done: Done, order: Assignment, *, at: float = 0.0, generation: str = "g1") -> Done:
    """What is done once the copy that is due has ended well."""
    job = next(job for job in mirror.due(order, done, at) if job.kind is not Kind.PUSH)
    newest = Newest(generation=generation, bytes=100)
    return mirror.copied(done, job, newest, interval=INTERVAL, began=at, now=at)


class TestAMirror:
    def test_pulls_at_once_and_then_at_the_interval(self) -> None:
        order = assignment(SyncMode.MIRROR)
        (job,) = mirror.due(order, Done(), 0.0)
        assert (job.kind, job.machine) == (Kind.PULL, GPU.id)
        done = sealed(Done(), order)
        assert mirror.due(order, done, 29.9) == ()
        assert mirror.next_at(order, done, 29.9) == 30.0
        assert kinds(mirror.due(order, done, 30.0)) == {Kind.PULL}

    def test_that_takes_longer_than_the_interval_goes_on_without_a_pause(self) -> None:
        order = assignment(SyncMode.MIRROR)
        (job,) = mirror.due(order, Done(), 0.0)
        done = mirror.copied(
            Done(), job, Newest(generation="g1", bytes=1), interval=30.0, began=0.0, now=45.0
        )
        assert kinds(mirror.due(order, done, 45.0)) == {Kind.PULL}

    def test_waits_the_interval_after_a_failure_even_when_a_seal_is_wanted(self) -> None:
        order = assignment(SyncMode.MIRROR, seal=3)
        (job,) = mirror.due(order, Done(), 0.0)
        done = mirror.copy_failed(Done(), job, "timeout", interval=30.0, now=5.0)
        assert mirror.due(order, done, 34.9) == ()
        assert kinds(mirror.due(order, done, 35.0)) == {Kind.PULL}

    def test_tries_at_once_when_a_person_accepts_the_shrunken_source(self) -> None:
        order = assignment(SyncMode.MIRROR)
        (job,) = mirror.due(order, Done(), 0.0)
        done = mirror.copy_failed(Done(), job, "source-shrank", interval=30.0, now=5.0)
        accepted = replace(order, accept_shrink=True)
        assert kinds(mirror.due(accepted, mirror.adopt(done, order, accepted), 6.0)) == {Kind.PULL}

    def test_says_now_and_then_that_an_unchanged_copy_is_still_fresh(self) -> None:
        order = assignment(SyncMode.MIRROR)
        done = mirror.told(sealed(Done(), order), "g1", 0.0)
        within = order.policy.generation_age_max
        assert not mirror.to_confirm(order, done, 60.0)
        assert mirror.to_confirm(order, done, within / 2), "long before it would count as stale"
        assert not mirror.to_confirm(order, mirror.told(done, "g1", within / 2), within / 2 + 60.0)

    def test_has_nothing_to_confirm_while_the_standby_serves(self) -> None:
        order = assignment(SyncMode.SERVE)
        assert not mirror.to_confirm(order, sealed(Done(), order), 1e6)


class TestAWatch:
    ORDER = replace(assignment(SyncMode.MIRROR), policy=Policy(sync_interval=INTERVAL, watch=True))

    def test_begins_with_the_first_copy_and_not_while_the_standby_serves(self) -> None:
        assert kinds(mirror.due(self.ORDER, Done(), 0.0)) == {Kind.PULL}
        done = sealed(Done(), self.ORDER)
        assert kinds(mirror.due(self.ORDER, done, 0.0)) == {Kind.FOLLOW}
        serving = replace(self.ORDER, mode=SyncMode.SERVE)
        assert kinds(mirror.due(serving, done, 0.0)) == set()

    def test_makes_the_next_copy_soon_and_the_one_after_that_not_too_soon(self) -> None:
        done = mirror.noticed(sealed(Done(), self.ORDER), 10.0)
        assert Kind.PULL not in kinds(mirror.due(self.ORDER, done, 10.1))
        assert Kind.PULL in kinds(mirror.due(self.ORDER, done, 10.2))
        done = mirror.noticed(mirror.copy_begun(done, 10.2), 10.3)
        job = Job(kind=Kind.PULL, epoch=1, standby=STANDBY.id, machine=GPU.id)
        done = mirror.copied(
            done, job, Newest(generation="g2", bytes=1), interval=INTERVAL, began=10.2, now=11.2
        )
        assert Kind.PULL not in kinds(mirror.due(self.ORDER, done, 14.1)), "it took a second"
        assert Kind.PULL in kinds(mirror.due(self.ORDER, done, 14.2)), "what came meanwhile"

    def test_does_not_hurry_a_copy_that_fails(self) -> None:
        done = sealed(Done(), self.ORDER)
        job = Job(kind=Kind.PULL, epoch=1, standby=STANDBY.id, machine=GPU.id)
        done = mirror.copy_failed(done, job, "timeout", interval=INTERVAL, now=40.0)
        done = mirror.noticed(done, 41.0)
        assert Kind.PULL not in kinds(mirror.due(self.ORDER, done, 69.9))

    def test_that_ended_is_begun_again_after_growing_pauses(self) -> None:
        done = sealed(Done(), self.ORDER)
        for pause in (10.0, 20.0, 40.0):
            done = mirror.follow_ended(done, 0.0, heard=False)
            assert done.follow_at == pause
        assert mirror.follow_ended(done, 0.0, heard=True).follow_at == 5.0
        for _ in range(30):
            done = mirror.follow_ended(done, 0.0, heard=False)
        assert done.follow_at == 300.0

    def test_that_ended_has_what_was_missed_looked_for(self) -> None:
        done = mirror.follow_ended(sealed(Done(), self.ORDER), 10.0, heard=True)
        assert Kind.PULL in kinds(mirror.due(self.ORDER, done, 10.2))


class TestAStandbyThatServes:
    def test_is_sealed_at_the_interval_and_at_once_when_asked(self) -> None:
        order = assignment(SyncMode.SERVE)
        done = sealed(Done(), order)
        assert mirror.due(order, done, 1.0) == ()
        (job,) = mirror.due(replace(order, seal=1), done, 1.0)
        assert (job.kind, job.machine, job.seal) == (Kind.SEAL, STANDBY.id, 1)

    def test_is_not_sealed_again_for_a_seal_that_is_covered(self) -> None:
        order = assignment(SyncMode.SERVE, seal=1)
        assert mirror.due(order, sealed(Done(), order), 1.0) == ()


class TestARestore:
    def test_waits_for_the_seal_that_was_asked_for_and_then_sends_once(self) -> None:
        order = assignment(SyncMode.RESTORE, attempt=2, round=1, seal=1)
        assert kinds(mirror.due(order, Done(), 0.0)) == {Kind.SEAL}
        done = sealed(Done(), order)
        (job,) = mirror.due(order, done, 1.0)
        assert (job.kind, job.machine, job.attempt, job.final) == (
            Kind.PUSH,
            CANDIDATE.id,
            2,
            False,
        )
        assert mirror.due(order, mirror.pushed(done, job), 2.0) == ()

    def test_sends_again_in_the_next_round_and_seals_meanwhile(self) -> None:
        order = assignment(SyncMode.RESTORE, round=1)
        done = sealed(Done(), order)
        (job,) = mirror.due(order, done, 1.0)
        second = replace(order, round=2)
        done = mirror.adopt(mirror.pushed(done, job), order, second)
        assert kinds(mirror.due(second, done, 1.0)) == {Kind.PUSH}
        assert kinds(mirror.due(second, done, 30.0)) == {Kind.PUSH, Kind.SEAL}

    def test_to_a_new_candidate_begins_anew(self) -> None:
        order = assignment(SyncMode.RESTORE, attempt=1, round=1)
        done = sealed(Done(), order)
        (job,) = mirror.due(order, done, 1.0)
        after = replace(order, attempt=2)
        done = mirror.adopt(mirror.pushed(done, job), order, after)
        assert kinds(mirror.due(after, done, 1.0)) == {Kind.PUSH}
        assert not mirror.still_wanted(job, after)

    def test_tries_a_failed_pass_again_after_a_while(self) -> None:
        order = assignment(SyncMode.RESTORE)
        done = sealed(Done(), order)
        (job,) = mirror.due(order, done, 1.0)
        done = mirror.push_failed(done, job, interval=INTERVAL, now=1.0)
        assert mirror.due(order, done, 5.9) == ()
        assert mirror.next_at(order, done, 5.9) == 6.0
        assert kinds(mirror.due(order, done, 6.0)) == {Kind.PUSH}


class TestTheLastDelta:
    def test_is_sealed_after_the_freeze_even_if_a_seal_was_just_taken(self) -> None:
        before = assignment(SyncMode.RESTORE)
        done = sealed(Done(), before)
        frozen = replace(before, mode=SyncMode.FINAL)
        done = mirror.adopt(done, before, frozen)
        (job,) = mirror.due(frozen, done, 0.1)
        assert (job.kind, job.final) == (Kind.SEAL, True)

    def test_is_sent_only_after_that_seal_and_only_once(self) -> None:
        order = assignment(SyncMode.FINAL)
        done = sealed(Done(), order)
        (job,) = mirror.due(order, done, 100.0)
        assert (job.kind, job.final) == (Kind.PUSH, True)
        assert mirror.due(order, mirror.pushed(done, job), 100.0) == ()

    def test_does_not_let_an_older_seal_pass_for_the_last_one(self) -> None:
        before = assignment(SyncMode.RESTORE)
        (running,) = mirror.due(before, Done(), 0.0)
        assert mirror.still_wanted(running, replace(before, seal=7, round=2))
        assert not mirror.still_wanted(running, replace(before, mode=SyncMode.FINAL))

    def test_is_all_done_again_after_a_freeze_that_was_given_up(self) -> None:
        final = assignment(SyncMode.FINAL, round=1)
        done = sealed(Done(), final)
        (job,) = mirror.due(final, done, 1.0)
        done = mirror.pushed(done, job)
        again = replace(final, mode=SyncMode.RESTORE, round=2)
        done = mirror.adopt(done, final, again)
        later = replace(again, mode=SyncMode.FINAL)
        done = mirror.adopt(done, again, later)
        assert [job.kind for job in mirror.due(later, done, 1.0)] == [Kind.SEAL]

    def test_is_tried_again_soon_while_people_wait(self) -> None:
        order = assignment(SyncMode.FINAL)
        (job,) = mirror.due(order, Done(), 0.0)
        done = mirror.copy_failed(Done(), job, "timeout", interval=INTERVAL, now=0.0)
        assert mirror.due(order, done, 0.5) == ()
        assert kinds(mirror.due(order, done, 1.0)) == {Kind.SEAL}


class TestWhatIsReported:
    def test_is_the_first_copy_from_each_source_though_nothing_changed(self) -> None:
        order = assignment(SyncMode.MIRROR, seal=4)
        done = sealed(Done(), order, generation="g9")
        next_epoch = replace(order, epoch=2)
        done = mirror.adopt(done, order, next_epoch)
        (job,) = mirror.due(next_epoch, done, 0.0)
        assert mirror.to_report(done, job, "g9", interval=INTERVAL, now=0.0)

    def test_is_a_new_generation_or_one_that_was_asked_for(self) -> None:
        order = assignment(SyncMode.SERVE)
        done = mirror.told(sealed(Done(), order, generation="g1"), "g1", 0.0)
        (job,) = mirror.due(order, done, INTERVAL)
        now = INTERVAL
        assert not mirror.to_report(done, job, "g1", interval=INTERVAL, now=now)
        assert mirror.to_report(done, job, "g2", interval=INTERVAL, now=now)
        assert mirror.to_report(done, replace(job, seal=1), "g1", interval=INTERVAL, now=now)

    def test_is_told_once_an_interval_however_often_it_changes(self) -> None:
        order = assignment(SyncMode.MIRROR)
        done = mirror.told(sealed(Done(), order, generation="g1"), "g1", 0.0)
        job = Job(kind=Kind.PULL, epoch=1, standby=STANDBY.id, machine=GPU.id)
        assert not mirror.to_report(done, job, "g2", interval=INTERVAL, now=2.0)
        done = replace(done, newest=Newest(generation="g2", bytes=1))
        assert mirror.to_report(done, job, "g2", interval=INTERVAL, now=INTERVAL)
        assert mirror.to_report(done, replace(job, seal=1), "g2", interval=INTERVAL, now=2.0)

    def test_is_a_failure_at_first_and_now_and_then(self) -> None:
        order = assignment(SyncMode.MIRROR)
        (job,) = mirror.due(order, Done(), 0.0)
        done, said = Done(), []
        for number in range(1, 22):
            done = mirror.copy_failed(done, job, "source-unreachable", interval=1.0, now=0.0)
            if mirror.failure_is_news(done):
                said.append(number)
        assert said == [1, 11, 21]
        other = mirror.copy_failed(done, job, "timeout", interval=1.0, now=0.0)
        assert mirror.failure_is_news(other)


@pytest.mark.parametrize("mode", [m for m in SyncMode if m is not SyncMode.IDLE])
@pytest.mark.parametrize(
    "change", [{"epoch": 9}, {"standby": None}, {"removed": True}, {"mode": SyncMode.IDLE}]
)
def test_no_job_outlives_its_epoch_its_standby_or_its_workspace(
    mode: SyncMode, change: dict[str, object]
) -> None:
    order = assignment(mode)
    done = replace(sealed(Done(), order), copy_at=0.0, final_sealed=mode is SyncMode.FINAL)
    for job in (*mirror.due(order, Done(), 0.0), *mirror.due(order, done, 0.0)):
        assert not mirror.still_wanted(job, replace(order, **change))  # type: ignore[arg-type]


def test_nothing_is_due_where_nothing_is_to_be_done() -> None:
    for order in (
        assignment(SyncMode.IDLE),
        assignment(SyncMode.MIRROR, primary=None),
        assignment(SyncMode.SERVE, standby=None),
        assignment(SyncMode.FINAL, removed=True),
    ):
        assert mirror.due(order, Done(), 1e9) == ()
        assert mirror.next_at(order, Done(copy_at=2e9), 1e9) is None


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_quarters_never_go_beyond_the_whole(done: int, total: int) -> None:
    assert 0 <= mirror.quarter(done, total) <= 4
    assert mirror.quarter(total, total) == 4
