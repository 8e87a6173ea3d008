"""Every pair of crash points that can happen is played, and no other."""

import pytest

from lab import pairs
from lab.pairs import Place, incident, outcome


def test_a_process_is_killed_at_each_of_its_places_and_the_incident_ends_well() -> None:
    first = outcome(()).next[0]
    kills = next(iter(outcome((first,)).then()))
    verdict, killer = incident(*kills)
    assert len(kills) == 2
    assert killer.wanted == []
    assert verdict.findings == ()


def test_a_kill_where_nothing_passes_any_more_is_the_same_run() -> None:
    every = outcome(()).next
    last = every[-1]
    once, killer = incident(last)
    unpassed = next(place for place in every if place not in killer.passed)
    twice, killer = incident(last, unpassed)
    assert killer.wanted == [unpassed]
    assert twice.digest == once.digest


def test_a_place_that_nobody_knows_is_no_pair() -> None:
    with pytest.raises(AssertionError, match="nothing passed nobody at nowhere"):
        pairs.outcome((Place("nobody", "nowhere"),))
