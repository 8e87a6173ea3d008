"""Waiting: said once, shown while it lasts, asked for less and less often."""

import asyncio
from collections.abc import Coroutine
from itertools import pairwise

import pytest

from shared.patience import Waits, pause_after
from tests.support import virtual_time


def patient(main: Coroutine[object, object, None]) -> None:
    virtual_time.run(main)


def waits(chance: float = 0.0) -> Waits:
    return Waits(now=virtual_time.now, chance=lambda: chance)


def test_pauses_double_from_the_first_to_the_bound() -> None:
    pauses = [pause_after(n, first=0.5, most=6, chance=0) for n in range(1, 8)]
    assert pauses == [0.5, 1, 2, 4, 6, 6, 6]
    assert pause_after(100_000, first=0.5, most=6, chance=0) == 6


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.999])
def test_chance_takes_up_to_half_of_a_pause_and_never_makes_it_longer(chance: float) -> None:
    for tries in range(1, 10):
        whole = pause_after(tries, first=1, most=8, chance=0)
        assert whole / 2 <= pause_after(tries, first=1, most=8, chance=chance) <= whole


def test_a_wait_is_shown_with_its_reason_and_its_beginning_until_it_is_over() -> None:
    async def main() -> None:
        here = waits()
        patience = here.patience("the bus")
        began = virtual_time.now()
        await patience.wait("no answer")
        await patience.wait("refused")
        (shown,) = here.current()
        assert (shown.what, shown.reason, shown.since) == ("the bus", "refused", began)
        patience.over()
        assert here.current() == []

    patient(main())


def test_two_loops_that_wait_for_the_same_are_one_wait_since_the_first_began() -> None:
    async def main() -> None:
        here = waits()
        first, second = here.patience("the bus"), here.patience("the bus")
        began = virtual_time.now()
        await first.wait("no answer")
        second.say("no answer")
        assert [wait.since for wait in here.current()] == [began]
        first.over()
        assert [wait.what for wait in here.current()] == ["the bus"]

    patient(main())


def test_after_it_came_the_pauses_begin_anew() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop()
        patience = waits().patience("the log", first=1, most=8)
        times = [clock.time()]
        for _ in range(3):
            await patience.wait("silent")
            times.append(clock.time())
        patience.over()
        await patience.wait("silent again")
        times.append(clock.time())
        assert [later - earlier for earlier, later in pairwise(times)] == [1, 2, 4, 1]

    patient(main())


def test_whoever_shows_the_waits_is_told_when_they_change_and_only_then() -> None:
    async def main() -> None:
        here = waits()
        patience = here.patience("the bus")
        for reason, news in (
            ("no answer", True),
            ("no answer", False),
            ("refused", True),
            ("", True),
            ("", False),
        ):
            here.changed.clear()
            if reason:
                patience.say(reason)
            else:
                patience.over()
            assert here.changed.is_set() is news

    patient(main())
