"""Every version of every event ever published still reads. Samples are added, never edited."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared import codec
from shared.events import EVENTS, SPEAKER

SAMPLES = Path(__file__).parent / "samples"
EVER_PUBLISHED = [
    (type_, version)
    for type_, event in sorted(EVENTS.items())
    for version in range(1, event.version + 1)
]


def sample(type_: str, version: int) -> dict[str, Any]:
    path = SAMPLES / f"{type_}.v{version}.json"
    assert path.exists(), f"{path.name} is missing: write down what {type_} looks like on the bus"
    read = json.loads(path.read_text())
    assert isinstance(read, dict)
    return read


@pytest.mark.parametrize(("type_", "version"), EVER_PUBLISHED)
def test_every_version_of_every_event_still_reads(type_: str, version: int) -> None:
    raw = sample(type_, version)
    assert raw["type"] == f"dumont.{type_}.v{version}"
    envelope = codec.decode(json.dumps(raw).encode())
    assert envelope.event.type == type_
    assert envelope.source == SPEAKER[type_]


@pytest.mark.parametrize(("type_", "event"), sorted(EVENTS.items()))
def test_what_is_published_today_still_says_all_that_the_sample_says(
    type_: str, event: type[Any]
) -> None:
    raw = sample(type_, event.version)
    again = codec.to_cloudevent(codec.decode(json.dumps(raw).encode()))
    assert holds_all(again, raw), f"{type_}: a field was renamed, removed or changed its meaning"


def holds_all(now: Any, then: Any) -> bool:
    """Whether everything of the sample is there; what was added since may be there too."""
    if isinstance(then, dict):
        return all(key in now and holds_all(now[key], value) for key, value in then.items())
    return bool(now == then)


def test_no_sample_is_of_an_event_that_nobody_knows() -> None:
    known = {f"{type_}.v{version}.json" for type_, version in EVER_PUBLISHED}
    assert {path.name for path in SAMPLES.iterdir()} <= known


@pytest.mark.parametrize(
    "name",
    ["HealthFailed", "ThresholdReached", "FailoverCompleted", "GpuProvisioned", "RestoreDone"],
)
def test_the_five_names_that_others_rely_on_are_there(name: str) -> None:
    assert name in EVENTS


def test_each_event_has_one_voice() -> None:
    assert SPEAKER.keys() == EVENTS.keys()
