"""Moments as people type them."""

from datetime import UTC, datetime, timedelta

import pytest

from cli.errors import CliError
from cli.moments import moment

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        (" 2h ", timedelta(hours=2)),
        ("3 d", timedelta(days=3)),
        ("2026-05-04T11:59:00Z", timedelta(minutes=1)),
        ("2026-05-04 13:30:00+02:00", timedelta(minutes=30)),
    ],
)
def test_an_age_or_a_time_is_understood(given: str, ago: timedelta) -> None:
    assert moment(given, NOW) == NOW - ago


def test_a_time_without_a_zone_is_in_that_of_this_machine() -> None:
    assert moment("2026-01-31T08:00", NOW) == datetime(2026, 1, 31, 8, 0).astimezone()


@pytest.mark.parametrize("given", ["", "yesterday", "2x", "-3h", "2026-13-01", "99999999d"])
def test_what_is_no_moment_is_refused_with_examples(given: str) -> None:
    with pytest.raises(CliError, match="is no moment") as refused:
        moment(given, NOW)
    assert "90s" in str(refused.value.hint)


@pytest.mark.parametrize("given", ["2026-05-04T12:00:00Z", "2027-01-01T00:00:00Z"])
def test_a_moment_that_is_not_over_is_refused(given: str) -> None:
    with pytest.raises(CliError, match="is not over"):
        moment(given, NOW)
