"""The hash of a record is the same in every version of the product, whatever was said."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from shared.envelope import Envelope
from shared.eventlog.canonical import canonical_json, digest, encoded, linked, records, storable
from shared.eventlog.port import Batch
from shared.events.requests import RequestReceived
from shared.machines import WorkspaceName

ASKED = Envelope(
    id=UUID(int=1),
    source="api",
    time=datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC),
    event=RequestReceived(
        workspace=WorkspaceName("train"),
        epoch=3,
        verb="pause",
        actor='Ada "ä" \x7f',
        arguments={
            "whole": 1.0,
            "big": 1e22,
            "small": 1e-7,
            "third": 1 / 3,
            "minus": -0.0,
            "nested": [1, 2.0, {"a": None, "b": [True, "€😀\n"]}],
            "nul": "a\0b",
            "ip": "10.0.0.1",
        },
    ),
    correlation=UUID(int=7),
)
HEAD = 4
HEAD_HASH = bytes(range(32))
AT = datetime(2026, 1, 1, 12, 0, 1, 5, tzinfo=UTC)


def test_a_record_has_the_hash_that_the_first_version_gave_it() -> None:
    events = encoded([Batch(envelopes=[ASKED], expected_version=2)], term=9)
    [found] = linked(events, head=HEAD, head_hash=HEAD_HASH, recorded_at=AT)
    assert found.hex() == "01ddf093edc5d9c3f7266eed587c09ab674cf302e523f04053c38b86ee04974f"


def test_the_hash_of_an_append_is_the_one_that_is_computed_again_from_the_record() -> None:
    batch = Batch(envelopes=[ASKED], expected_version=2)
    made = records([*encoded([batch], term=9)], head=HEAD, head_hash=HEAD_HASH, recorded_at=AT)
    assert [record.hash for record in made] == [digest(record) for record in made]


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1.0},
        {"a": [1.0, 2]},
        {"a": [2, 1.0]},
        {"a": 1e16},
        {"a": 1e-7, "b": "e-1"},
        {"b": "x\0", "a": 1},
        {"b": "\ud800"},
        {"a": "1.0, 2.0] 3e+4"},
        {"a": "é"},
    ],
)
def test_what_is_spelled_anew_by_the_log_is_put_right_before(value: dict[str, object]) -> None:
    assert canonical_json(value) == canonical_json(storable(value))
