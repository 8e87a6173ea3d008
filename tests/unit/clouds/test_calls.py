"""How calls to a cloud are spaced, and which are made again."""

from collections.abc import Awaitable, Callable

import pytest

from shared.clouds.calls import Limit, Pace, read
from shared.clouds.errors import (
    EVIDENCE_MAX,
    AuthError,
    NoAnswerError,
    RateLimitedError,
    ServerFailedError,
    evidence_of,
)
from tests.support.faults import fault

pytestmark = pytest.mark.anyio


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def pace(self, limit: Limit, scale: float = 1.0) -> Pace:
        return Pace({"call": limit}, scale=scale, monotonic=self.monotonic, sleep=self.sleep)


async def turns(time: Time, pace: Pace, count: int) -> list[float]:
    """When each of several calls in a row is allowed."""
    allowed = []
    for _ in range(count):
        await pace.turn("call")
        allowed.append(time.now)
    return allowed


async def test_calls_of_one_kind_keep_their_interval() -> None:
    time = Time()
    assert await turns(time, time.pace(Limit(2.0)), 3) == [0.0, 2.0, 4.0]


@fault(54)
async def test_a_burst_is_allowed_and_then_paid_for() -> None:
    time = Time()
    assert await turns(time, time.pace(Limit(6.0, burst=3)), 5) == [0.0, 0.0, 0.0, 6.0, 12.0]


async def test_time_that_passed_unused_is_not_saved_beyond_the_burst() -> None:
    time = Time()
    pace = time.pace(Limit(6.0, burst=2))
    await turns(time, pace, 2)
    time.now = 1000.0
    assert await turns(time, pace, 3) == [1000.0, 1000.0, 1006.0]


@fault(54)
async def test_a_hold_keeps_everybody_waiting() -> None:
    time = Time()
    pace = time.pace(Limit(1.0, burst=3))
    pace.hold("call", 30.0)
    assert (await turns(time, pace, 1))[0] == 30.0


async def test_against_a_simulator_the_pace_can_be_switched_off() -> None:
    time = Time()
    assert await turns(time, time.pace(Limit(6.0), scale=0), 3) == [0.0, 0.0, 0.0]


def failing(*errors: Exception) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    calls: list[int] = []
    left = list(errors)

    async def call() -> str:
        calls.append(1)
        if left:
            raise left.pop(0)
        return "answer"

    return call, calls


async def test_a_read_survives_two_passing_troubles() -> None:
    call, calls = failing(NoAnswerError("cut"), ServerFailedError("503"))
    assert await read(call, Time().pace(Limit(0))) == "answer"
    assert len(calls) == 3


async def test_a_read_gives_up_at_the_third_trouble() -> None:
    call, calls = failing(*[NoAnswerError("cut")] * 9)
    with pytest.raises(NoAnswerError):
        await read(call, Time().pace(Limit(0)))
    assert len(calls) == 3


@pytest.mark.parametrize(
    "error", [AuthError("key"), RateLimitedError("quota", retry_after=14233)], ids=["auth", "quota"]
)
async def test_a_read_is_not_repeated_where_it_would_not_help(error: Exception) -> None:
    call, calls = failing(error)
    with pytest.raises(type(error)):
        await read(call, Time().pace(Limit(0)))
    assert len(calls) == 1


async def test_a_read_waits_as_long_as_it_was_told() -> None:
    time = Time()
    call, _ = failing(RateLimitedError("slow down", retry_after=7))
    await read(call, time.pace(Limit(0)))
    assert time.now == 7


def test_evidence_is_short_and_without_secrets() -> None:
    text = '{"instance_api_key": "abc", "msg": "key k-1 is bad"}\n' + "x" * 5000
    evidence = evidence_of(text, secrets=("k-1", ""))
    assert "abc" not in evidence
    assert "k-1" not in evidence
    assert len(evidence) == EVIDENCE_MAX
