"""The timeline in sentences."""

from dataclasses import replace

import pytest

from services.api.domain import wording
from services.api.domain.narration import Severity, evidence, severity, tell
from shared.events import EVENTS
from shared.events.base import Event
from shared.events.recovery import FailoverCompleted
from tests.unit.api.tale import Tale, example


@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS.keys())
def test_every_event_is_told_in_a_sentence(kind: type[Event]) -> None:
    text = tell(example(kind))
    assert text != kind.type
    assert text == text.strip() and not text.endswith(".") and "None" not in text
    assert "\n" not in text and len(text) < 200


def test_a_failover_is_told_with_its_numbers() -> None:
    assert tell(example(EVENTS["FailoverCompleted"])) == (
        "failover complete: the standby serves generation 1-2, 11.8 s old when the GPU was "
        "given up, 1.2 s after the decision"
    )


def test_an_offer_is_told_with_why_it_was_chosen() -> None:
    assert tell(example(EVENTS["OfferSelected"])) == (
        "attempt 1: 14 offers seen, chose RTX 4090, TH at $0.28/h, bid $0.30/h: "
        "the cheapest in a preferred region"
    )


def test_a_request_names_who_asked() -> None:
    asked = Tale().tell(
        EVENTS["RequestReceived"], verb="failover", actor="ana", arguments={"reason": "it hangs"}
    )
    assert tell(asked.event) == "request by ana: failover, it hangs"


def test_severities_tell_what_hits_people_from_what_goes_on() -> None:
    expected = {
        "HealthFailed": Severity.WARNING,
        "ThresholdReached": Severity.CRITICAL,
        "FailoverCompleted": Severity.SUCCESS,
        "GpuProvisioned": Severity.INFO,
        "RestoreDone": Severity.SUCCESS,
        "RecoveryHalted": Severity.CRITICAL,
    }
    assert {name: severity(example(EVENTS[name])) for name in expected} == expected


def test_a_verdict_carries_its_evidence() -> None:
    assert evidence(example(EVENTS["ThresholdReached"])) == (
        "tcp: connection refused",
        "provider: running",
    )
    assert evidence(example(EVENTS["SyncCompleted"])) == ()


def test_a_failover_says_which_newer_generations_were_damaged() -> None:
    completed = example(EVENTS["FailoverCompleted"])
    assert isinstance(completed, FailoverCompleted)
    assert "passed over" not in tell(completed)
    assert "passed over: " in tell(replace(completed, damaged=("e000001-00000003",)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0009, "0.0009 s"),
        (1.234, "1.23 s"),
        (59.99, "60 s"),
        (250, "4 min 10 s"),
        (11_100, "3 h 5 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_spans_read_naturally(seconds: float, text: str) -> None:
    assert wording.span(seconds) == text


def test_sizes_prices_and_generations_read_naturally() -> None:
    assert wording.size(999) == "999 B"
    assert wording.size(268_435_456) == "268.4 MB"
    assert wording.price(0.3) == "$0.30/h"
    assert wording.price(0.299) == "$0.299/h"
    assert wording.price(2) == "$2.00/h"
    assert wording.generation("e000003-00000017") == "3-17"
    assert wording.generation("") == "none"
