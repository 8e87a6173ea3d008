"""Which copies a standby keeps: enough of them to undo what was seen too late."""

from random import Random

import pytest

from shared.gate.program.retention import NEWEST_KEPT, kept

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
NOON = 20_000 * DAY + 12 * HOUR


def after(seconds: float, *, interval: float) -> set[float]:
    """How old, in seconds, what is kept is, of copies taken all the while and pruned each time."""
    taken: list[tuple[str, float]] = []
    at = NOON - seconds
    while at <= NOON:
        taken.append((f"{at:015.1f}", at))
        keep = kept(taken, at)
        taken = [copy for copy in taken if copy[0] in keep]
        at += interval
    return {NOON - at for _, at in taken}


def oldest_below(ages: set[float], bound: float) -> float:
    return max(age for age in ages if age <= bound)


@pytest.mark.parametrize(
    ("interval", "lasting"), [(2.0, HOUR), (30.0, DAY), (600.0, 9 * DAY), (6 * HOUR, 30 * DAY)]
)
def test_there_is_one_of_nearly_any_age_up_to_a_week(interval: float, lasting: float) -> None:
    ages = after(lasting, interval=interval)
    for bound, step in ((10 * MINUTE, MINUTE), (DAY, HOUR), (7 * DAY, DAY)):
        for wanted in range(2, int(min(bound, lasting) / step)):
            step_or_interval = max(step, interval)
            assert oldest_below(ages, wanted * step) > wanted * step - 2 * step_or_interval


@pytest.mark.parametrize(("interval", "lasting"), [(2.0, HOUR), (30.0, DAY), (600.0, 9 * DAY)])
def test_they_stay_few_however_often_there_is_a_new_one(interval: float, lasting: float) -> None:
    assert len(after(lasting, interval=interval)) <= NEWEST_KEPT + 10 + 24 + 7


def test_the_newest_are_kept_whatever_their_clock_said() -> None:
    chance = Random(5)
    taken = [(str(number), chance.uniform(0, 2 * NOON)) for number in range(100)]
    assert {name for name, _ in taken[-NEWEST_KEPT:]} <= kept(taken, NOON)


def test_nothing_is_kept_of_nothing() -> None:
    assert kept([], NOON) == set()
