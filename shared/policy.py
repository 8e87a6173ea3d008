"""What a user may decide about a workspace. Every duration is in seconds."""

import math
from dataclasses import dataclass, fields

RESTORE_BYTES_PER_SECOND_MIN = 6_000_000
"""A restore is never given less time than its bytes need at this rate."""
NUMBER_MAX = 366 * 86_400
"""For every setting: in seconds a year, and no sensible price or size is larger."""
ZERO_ALLOWED = {
    *("cooldown", "search_retries"),
    *("spend_hour_max", "spend_day_max", "spend_incident_max"),
}
SPEND_HOURS = {"hour": 1.5, "day": 26.0, "incident": 6.0}
"""What a workspace may cost by default, in hours of a GPU at the highest price: more than one GPU
in service for the whole window, less than two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings of one workspace, with the product's defaults.

    Prices are US dollars an hour, ``gpu_ram_min_gb`` and ``disk_gb`` are gigabytes.
    ``spend_*_max`` are US dollars of rented GPUs in the last hour, in the last day, and in one
    incident; 0 means so many hours at ``gpu_price_max`` as SPEND_HOURS says.
    ``regions`` are two-letter country codes or ``EU``: preferences, unless ``regions_strict``.
    """

    sync_interval: float = 30.0
    watch: bool = True
    """Hear of changes on the GPU, and copy them within seconds rather than at the interval."""
    health_interval: float = 10.0
    probe_timeout: float = 5.0
    failover_threshold: int = 3
    auto_failover: bool = True
    auto_recovery: bool = True
    cooldown: float = 30.0

    gpu_price_max: float = 0.50
    spend_hour_max: float = 0.0
    spend_day_max: float = 0.0
    spend_incident_max: float = 0.0
    gpu_ram_min_gb: float = 8.0
    gpu_disk_gb: float = 32.0
    gpu_image: str = "pytorch/pytorch:latest"
    regions: tuple[str, ...] = ("TH", "VN", "JP", "EU")
    regions_strict: bool = False

    standby_zone: str = "europe-west1-b"
    standby_machine: str = "e2-medium"
    standby_disk_gb: int = 100
    standby_spot: bool = True
    standby_losses_max: int = 3
    standby_loss_window: float = 86_400.0
    """A Spot standby lost so often within so many seconds is made anew as an on-demand one."""
    generation_age_max: float = 900.0
    """A standby whose newest copy is older is not promoted unless a person says so."""

    sync_timeout: float = 300.0
    ssh_timeout: float = 300.0
    restore_timeout: float = 600.0
    freeze_bound: float = 5.0
    freeze_timeout: float = 60.0
    search_retries: int = 10
    search_retry_wait: float = 30.0
    search_wait_max: float = 900.0

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
        for region in self.regions:
            if len(region) != 2 or not region.isupper():
                return f"policy: region {region!r} is not a two-letter code such as TH, or EU"
        for key in self.ssh_keys:
            if not key.isprintable() or len(key.split()) < 2:
                return "policy: each of ssh_keys is one public key line, 'ssh-ed25519 AAAA...'"
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
