"""A policy that nobody can work by is refused, with the setting and what fits."""

import pytest

from shared.policy import NUMBER_MAX, Policy


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("sync_interval", -1.0, "must be greater than 0"),
        ("sync_interval", 0.0, "must be greater than 0"),
        ("sync_interval", float("nan"), "must be a number"),
        ("gpu_price_max", float("inf"), "must be a number"),
        ("ssh_timeout", 1e300, "larger than"),
        ("failover_threshold", 10**400, "larger than"),
        ("gpu_image", " ", "one line of text"),
        ("standby_zone", "a\nb", "one line of text"),
        ("gpu_image", "a\0b", "one line of text"),
        ("regions", ("Thailand",), "two-letter code"),
        ("sync_rate_max", -1.0, "must be greater than 0"),
        ("sync_excludes", ("*",), "leave out everything"),
        ("sync_excludes", ("cache/", "/**"), "leave out everything"),
        ("sync_excludes", ("",), "leave out everything"),
        ("sync_excludes", ("a\nb",), "one line"),
        ("sync_excludes", ("+ *",), "is a rule"),
        ("ssh_keys", ("ssh-ed25519",), "public key line"),
        ("ssh_keys", ("ssh-ed25519 AAAA\ncommand",), "public key line"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Policy(**{setting: value})  # type: ignore[arg-type]


def test_patterns_of_what_need_not_be_copied_are_taken_as_they_are() -> None:
    patterns = ("*.tmp", "cache/", "/only/at/the/top", "**/wandb")
    assert Policy(sync_excludes=patterns).sync_excludes == patterns


def test_what_may_be_zero_may_be() -> None:
    assert Policy(cooldown=0, search_retries=0).cooldown == 0


@pytest.mark.parametrize(
    ("total_bytes", "seconds"),
    [(0, 600), (6_000_000_000, 1_000), (10**400, NUMBER_MAX)],
)
def test_a_restore_is_given_the_time_that_its_bytes_need(total_bytes: int, seconds: float) -> None:
    assert Policy().restore_deadline(total_bytes) == seconds
