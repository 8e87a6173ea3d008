"""What a user may decide about a workspace. Every duration is in seconds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

RESTORE_BYTES_PER_SECOND_MIN = 6_000_000
"""A restore is never given less time than its bytes need at this rate."""
NUMBER_MAX = 366 * 86_400
"""For every setting: in seconds a year, and no sensible price or size is larger."""
ZERO_ALLOWED = {
    *("cooldown", "search_retries", "sync_rate_max"),
    *("spend_hour_max", "spend_day_max", "spend_incident_max"),
}
PATTERN_MAX = 500
SPEND_HOURS = {"hour": 1.5, "day": 26.0, "incident": 6.0}
"""What a workspace may cost by default, in hours of a GPU at the highest price: more than one GPU
in service for the whole window, less than two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings of one workspace, with the product's defaults.

    Durations are in seconds, prices in US dollars an hour. ``docs/policy.md`` is made of this.
    """

    sync_interval: float = 30.0
    """Between the begins of two looks through the whole tree; a failed sync waits as long."""
    watch: bool = True
    """Hear of changes on the GPU, and copy them within seconds rather than at the interval."""
    sync_excludes: tuple[str, ...] = ()
    """What is not protected, as rsync's patterns: ``*.tmp``, ``cache/``, ``/only/at/the/top``."""
    sync_rate_max: float = 0.0
    """Megabytes a second that a sync may take of the GPU's line; 0: all that there is."""
    sync_timeout: float = 300.0
    """After which a sync is broken off; the next one goes on from what it had."""
    generation_age_max: float = 900.0
    """A standby whose newest copy is older is not promoted unless a person says so."""

    health_interval: float = 10.0
    """Between two checks of a host."""
    probe_timeout: float = 5.0
    """For each probe of a check."""
    failover_threshold: int = 3
    """So many failed checks in a row make a host suspect; recovery then looks for itself."""
    auto_failover: bool = True
    """Fail over without being asked."""
    auto_recovery: bool = True
    """Look for a GPU after a failover without being asked."""
    cooldown: float = 30.0
    """No failover by itself so shortly after the way back to a GPU."""

    gpu_price_max: float = 0.50
    """The highest price of a GPU."""
    gpu_ram_min_gb: float = 8.0
    """The least GPU memory, in gigabytes."""
    gpu_disk_gb: float = 32.0
    """The disk that is rented with the GPU, in gigabytes."""
    gpu_image: str = "pytorch/pytorch:latest"
    """The container image that the GPU runs."""
    regions: tuple[str, ...] = ("TH", "VN", "JP", "EU")
    """Two-letter country codes or ``EU`` that are preferred."""
    regions_strict: bool = False
    """Rent nowhere else."""
    spend_hour_max: float = 0.0
    """US dollars for rented GPUs in the last hour; 0: 1.5 hours at ``gpu_price_max``."""
    spend_day_max: float = 0.0
    """US dollars for rented GPUs in the last day; 0: 26 hours at ``gpu_price_max``."""
    spend_incident_max: float = 0.0
    """US dollars for rented GPUs in one incident; 0: 6 hours at ``gpu_price_max``."""

    standby_zone: str = "europe-west1-b"
    """Where the standby is created."""
    standby_machine: str = "e2-medium"
    """Its machine type."""
    standby_disk_gb: int = 100
    """Its disk, in gigabytes: twice the data, and room for older generations."""
    standby_spot: bool = True
    """Create it as a Spot VM."""
    standby_losses_max: int = 3
    """A Spot standby lost so often within ``standby_loss_window`` is made anew on demand."""
    standby_loss_window: float = 86_400.0
    """See ``standby_losses_max``."""

    search_retries: int = 10
    """So many searches come quickly; after them people are told, and the wait grows."""
    search_retry_wait: float = 30.0
    """Between two of the quick ones."""
    search_wait_max: float = 900.0
    """The longest wait between two searches."""
    ssh_timeout: float = 300.0
    """For a rented machine to answer by SSH and be prepared."""
    restore_timeout: float = 600.0
    """For a restore; more where the bytes need more at 6 MB/s."""
    freeze_bound: float = 5.0
    """The way back closes the endpoint once the rest takes no longer than this."""
    freeze_timeout: float = 60.0
    """The longest that people wait there; then the standby serves again."""

    ssh_keys: tuple[str, ...] = ()
    """Public keys of the people who may log in, as in an ``authorized_keys`` file."""

    def __post_init__(self) -> None:
        if reason := self._unusable():
            raise ValueError(reason)

    def _unusable(self) -> str | None:
        for name in NUMBERS:
            if reason := _unusable_number(getattr(self, name), zero_allowed=name in ZERO_ALLOWED):
                return f"policy: {name} {reason}"
        for name in TEXTS:
            if reason := _unusable_text(getattr(self, name)):
                return f"policy: {name} {reason}"
        for name, unusable in ITEMS.items():
            for item in getattr(self, name):
                if reason := unusable(item):
                    return f"policy: {reason}"
        return None

    def spend_max(self, window: str) -> float:
        """What may be spent in a window (``hour``, ``day``, ``incident``), in US dollars."""
        asked: float = getattr(self, f"spend_{window}_max")
        return asked or SPEND_HOURS[window] * self.gpu_price_max

    def restore_deadline(self, total_bytes: int) -> float:
        """How long a restore of so many bytes may take, in seconds."""
        seconds = min(total_bytes // RESTORE_BYTES_PER_SECOND_MIN, NUMBER_MAX)
        return max(self.restore_timeout, float(seconds))


NUMBERS = tuple(f.name for f in fields(Policy) if type(f.default) in {int, float})
TEXTS = tuple(f.name for f in fields(Policy) if type(f.default) is str)
"""Known once: a policy is read again with each assignment that changed."""


def _unusable_number(value: float, *, zero_allowed: bool) -> str | None:
    # Not a number compares with nothing, and a timedelta of 1e300 seconds ends the process.
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}; it must be a number"
    if value < 0 or (value == 0 and not zero_allowed):
        return f"is {value}; it must be greater than 0"
    if value > NUMBER_MAX:
        return f"is larger than {NUMBER_MAX}; nothing needs so much"
    return None


def _unusable_text(value: str) -> str | None:
    if not value.strip() or not value.isprintable():
        return f"is {value!r}; it must be one line of text"
    return None


def _unusable_region(region: str) -> str | None:
    if len(region) == 2 and region.isupper():
        return None
    return f"region {region!r} is not a two-letter code such as TH, or EU"


def _unusable_pattern(pattern: str) -> str | None:
    shown = f"sync_excludes: {pattern[:80]!r}"
    if not pattern.isprintable() or len(pattern) > PATTERN_MAX:
        return f"{shown} is not one line of at most {PATTERN_MAX} characters"
    if pattern.startswith(("+ ", "- ", "!")):
        return f"{shown} is a rule; give the pattern alone"
    if not pattern.strip("*?/. "):
        return f"{shown} would leave out everything"
    return None


def _unusable_key(key: str) -> str | None:
    if key.isprintable() and len(key.split()) >= 2:
        return None
    return "each of ssh_keys is one public key line, 'ssh-ed25519 AAAA...'"


ITEMS: dict[str, Callable[[str], str | None]] = {
    "regions": _unusable_region,
    "sync_excludes": _unusable_pattern,
    "ssh_keys": _unusable_key,
}
