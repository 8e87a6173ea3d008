"""Traces of real markets drive runs; the lab ships one maker of its own, and no trace."""

import json
from pathlib import Path
from random import Random

import pytest

from lab import traces
from lab.traces import Trace, TraceError


def test_a_trace_is_read_as_the_losses_that_it_tells_of(tmp_path: Path) -> None:
    path = tmp_path / "zone.json"
    path.write_text(json.dumps({"metadata": {"gap_seconds": 10}, "data": [1, 1, 0, 1, 1, 1, 0, 0]}))
    trace = traces.read(path)
    assert list(trace.outages()) == [(20.0, 10.0), (30.0, 20.0)]
    assert [loss.gap for loss in trace.losses(Random(1))] == [20.0, 30.0]


def test_a_group_counts_as_available_only_when_all_of_it_is(tmp_path: Path) -> None:
    path = tmp_path / "group.json"
    path.write_text(json.dumps({"metadata": {"gap_seconds": 10}, "data": [4, 3, 4]}))
    assert list(traces.read(path).outages()) == [(10.0, 10.0)]


@pytest.mark.parametrize("text", ["", "[]", '{"data": [1]}', '{"metadata": {"gap_seconds": "x"}}'])
def test_what_is_no_trace_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=r"odd\.json"):
        traces.read(path)


def test_a_synthetic_market_takes_machines_away_and_gives_them_back() -> None:
    trace = traces.synthetic(Random(1), hours=48)
    assert trace.hours >= 48
    assert 10 < len(list(trace.outages())) < 100
    assert trace == traces.synthetic(Random(1), hours=48)


def test_a_market_that_never_takes_anything_away_tells_of_no_loss() -> None:
    assert list(Trace(10.0, (True, True)).outages()) == []
