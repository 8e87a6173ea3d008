"""A bench is judged by its targets alone, and what did not run is not met."""

import pytest

from benchmarks.measures import Measured, judged, met


def measured(ours: list[float], peer: list[float]) -> Measured:
    return Measured(measure="m", ours=ours, peer=peer, peer_name="peer", unit="events/s")


@pytest.mark.parametrize(
    ("target", "ours", "peer", "verdict"),
    [
        ({"ratio_at_least": 2.0}, [20, 40, 9], [10, 10, 10], True),
        ({"ratio_at_least": 2.0}, [20, 19, 19], [10, 10, 10], False),
        ({"ratio_at_most": 1.5}, [1.4, 9, 1.5], [1, 1, 1], True),
        ({"ratio_at_most": 1.5}, [1.6, 9, 1.0], [1, 1, 1], False),
        ({"ours_at_most": 0}, [0, 0], [7, 9], True),
        ({"ours_at_most": 0}, [0, 1], [7, 9], False),
        ({"ratio_at_least": 2.0}, [], [], False),
    ],
)
def test_a_measure_is_met_when_its_runs_say_so(
    target: dict[str, float], ours: list[float], peer: list[float], verdict: bool
) -> None:
    assert met(target, measured(ours, peer)) is verdict


def test_a_measure_that_did_not_run_is_not_met() -> None:
    rows = judged("log", [])
    assert rows
    assert not any(row["met"] for row in rows)
    assert {row["runs"] for row in rows} == {0}


def test_the_ratio_is_that_of_the_runs_and_not_of_lucky_moments() -> None:
    assert measured([10, 100, 30], [5, 100, 10]).ratio == 2.0
