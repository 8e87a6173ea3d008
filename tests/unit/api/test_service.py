"""Following the log, and the board that is kept from it."""

import asyncio

import pytest

from services.api.domain.board import Board, Recent
from services.api.domain.operations import Outcome
from services.api.service import Follower
from shared.eventlog.memory import MemoryLog
from shared.events.recovery import (
    FailoverCompleted,
    FailoverStarted,
    RecoveryHalted,
    RecoveryStarted,
    RequestAccepted,
    RequestRefused,
    RollbackRefused,
    RollbackRequested,
    WorkspacePaused,
    WorkspaceRemoved,
)
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName
from tests.unit.api.tale import Tale


def board_of(tale: Tale) -> Board:
    board = Board()
    for envelope in tale.told:
        board.apply(envelope)
    return board


# --- operations ----------------------------------------------------------------------------------


def test_a_request_is_pending_until_an_event_answers_it() -> None:
    tale = Tale().protected()
    asked = tale.tell(RequestReceived, verb="failover")
    tale.tell(FailoverStarted, causation=asked.id, epoch=2)
    found = board_of(tale).operation(asked.id)
    assert found is not None and found.outcome is Outcome.PENDING
    tale.tell(FailoverCompleted, epoch=2)
    found = board_of(tale).operation(asked.id)
    assert found is not None and found.outcome is Outcome.DONE


def test_a_refusal_ends_the_request_that_caused_it_and_no_other() -> None:
    tale = Tale().protected()
    first = tale.tell(RequestReceived, verb="failover")
    second = tale.tell(RequestReceived, verb="failover")
    tale.tell(RequestRefused, verb="failover", causation=second.id)
    board = board_of(tale)
    outcomes = [board.operation(one.id) for one in (first, second)]
    assert [o.outcome for o in outcomes if o] == [Outcome.PENDING, Outcome.REFUSED]


def test_a_way_back_to_an_older_copy_that_there_is_not_ends_the_request_for_it() -> None:
    tale = Tale().protected()
    asked = tale.tell(RequestReceived, verb="failover", arguments={"before": "2020-01-01T00:00Z"})
    tale.tell(RollbackRequested, causation=asked.id)
    tale.tell(RollbackRefused)
    found = board_of(tale).operation(asked.id)
    assert found is not None
    assert (found.outcome, found.reason) == (
        Outcome.REFUSED,
        "the standby holds no copy from before then",
    )


def test_a_plain_failover_is_not_refused_with_the_way_back_that_it_overtook() -> None:
    tale = Tale().protected()
    tale.tell(RequestReceived, verb="failover", arguments={"before": "2020-01-01T00:00Z"})
    plain = tale.tell(RequestReceived, verb="failover")
    tale.tell(RollbackRefused)
    tale.tell(FailoverCompleted, epoch=2)
    found = board_of(tale).operation(plain.id)
    assert found is not None and found.outcome is Outcome.DONE


def test_asking_for_what_already_holds_is_done_at_once() -> None:
    tale = Tale().protected()
    asked = tale.tell(RequestReceived, verb="resume")
    found = board_of(tale).operation(asked.id)
    assert found is not None and found.outcome is Outcome.DONE
    assert found.reason == "it was already so"


def test_a_recovery_that_halts_fails_the_request_for_it() -> None:
    tale = Tale().protected().lost()
    asked = tale.tell(RequestReceived, verb="recover")
    tale.tell(RecoveryStarted, causation=asked.id)
    tale.tell(RecoveryHalted)
    found = board_of(tale).operation(asked.id)
    assert found is not None
    assert (found.outcome, found.hint) == (Outcome.FAILED, "set another key")


def test_an_upload_is_done_when_it_is_accepted() -> None:
    tale = Tale().registered(origin="uploaded").standby_up()
    asked = tale.tell(RequestReceived, verb="uploaded")
    tale.tell(RequestAccepted, verb="uploaded", causation=asked.id)
    found = board_of(tale).operation(asked.id)
    assert found is not None and found.outcome is Outcome.DONE


def test_a_removal_ends_whatever_was_still_asked() -> None:
    tale = Tale().protected()
    asked = tale.tell(RequestReceived, verb="failover")
    removal = tale.tell(RequestReceived, verb="remove")
    tale.tell(WorkspaceRemoved, causation=removal.id)
    board = board_of(tale)
    outcomes = [board.operation(one.id) for one in (asked, removal)]
    assert [o.outcome for o in outcomes if o] == [Outcome.FAILED, Outcome.DONE]


# --- the board -----------------------------------------------------------------------------------


def test_an_event_that_was_taken_in_already_changes_nothing() -> None:
    tale = Tale().registered()
    board = board_of(tale)
    board.apply(tale.told[0])
    assert len(board.timeline("train", after=0, limit=10) or []) == 1


def test_a_workspace_that_nobody_registered_is_not_listed() -> None:
    tale = Tale()
    tale.tell(RequestReceived, verb="register")
    tale.tell(RequestRefused, verb="register")
    assert board_of(tale).workspaces() == []


def test_recent_events_are_given_in_order_or_not_at_all() -> None:
    recent = Recent(limit=3)
    for envelope in Tale().registered().standby_up().synced().searching().told:
        recent.add(envelope)
    assert recent.after(0, 10) is None
    assert recent.after(1, 10) is None
    assert [e.position for e in recent.after(2, 10) or []] == [3, 4, 5]
    assert [e.position for e in recent.after(2, 2) or []] == [3, 4]
    assert recent.after(5, 10) == []


# --- the follower --------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_follower_outlives_a_log_that_falls_silent() -> None:
    log = MemoryLog()
    term = await log.acquire("test", 3600) or 0
    tale = Tale().registered()
    await log.append(tale.told, term=term, expected_version=0)
    follower = Follower(log, poll_seconds=0.01)
    following = asyncio.create_task(follower.run())
    assert await follower.until(lambda board: board.position == 1, 5)
    log.answering = False
    assert await follower.until(lambda _: not follower.answering, 5)
    log.answering = True
    tale.tell(WorkspacePaused)
    await log.append(tale.told[1:], term=term, expected_version=1)
    assert await follower.until(lambda board: board.position == 2, 5)
    view = follower.board.workspace("train")
    assert view is not None and view.paused is not None
    follower.close()
    await following


@pytest.mark.anyio
async def test_a_long_log_is_read_in_pages_before_anything_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.api.service.PAGE", 10)
    log = MemoryLog()
    term = await log.acquire("test", 3600) or 0
    tale = Tale(WorkspaceName("train")).registered()
    for sequence in range(1, 95):
        tale.synced(sequence)
    await log.append(tale.told, term=term, expected_version=0)
    follower = Follower(log, poll_seconds=60)
    following = asyncio.create_task(follower.run())
    assert await follower.until(lambda _: follower.caught_up, 5)
    assert follower.board.position == 95
    follower.close()
    await following
