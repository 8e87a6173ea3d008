"""Every pair of crash points that can happen is played, each as if it were the only one."""

from multiprocessing import Pipe, get_context

import pytest

from lab.pairs import Outcome, Place, explore, incident

SHARES = 60
"""Some of the first kills, with every second one, are a hundred runs: enough to see."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    reader, writer = Pipe(duplex=False)
    process = get_context("spawn").Process(target=explore, args=(0, SHARES, writer))
    process.start()
    writer.close()
    found: list[Outcome] = []
    with reader:
        while True:
            try:
                found.append(reader.recv())
            except EOFError:
                break
    process.join()
    assert process.exitcode == 0
    return found


def test_the_incident_is_played_without_a_kill_with_one_and_with_every_second_one(
    outcomes: list[Outcome],
) -> None:
    kills = [outcome.kills for outcome in outcomes]
    assert len(set(kills)) == len(kills)
    assert () in kills
    alone = [pair for pair in kills if len(pair) == 1]
    assert alone
    for first in alone:
        assert sum(pair[:1] == first and len(pair) == 2 for pair in kills) > 30
    assert {outcome.findings for outcome in outcomes} == {()}


@pytest.mark.parametrize("which", range(0, 100, 9))
def test_a_copy_goes_on_as_a_run_with_the_same_kills_does(
    outcomes: list[Outcome], which: int
) -> None:
    outcome = outcomes[which]
    assert incident(*outcome.kills).digest == outcome.digest


def test_a_place_that_nobody_passes_is_no_pair() -> None:
    with pytest.raises(ValueError, match="nothing passed nobody at nowhere"):
        incident(Place("nobody", "nowhere"))
