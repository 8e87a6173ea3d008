"""Everything that the health service can be told from outside."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from shared.environment import Environment, SettingsError

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Providers without a key are not asked: their hosts are judged by themselves alone.

    ``silent_share`` and ``silent_hosts_min``: when so large a share of at least so many watched
    hosts is silent at once, our own network counts as down. ``provider_pace`` scales the
    intervals between calls to a provider (below 1 against a simulator only).
    """

    nats_url: str
    nats_user: str
    nats_password: str = field(repr=False)
    vast_url: str
    vast_read_key: str = field(repr=False)
    gce_url: str
    gce_project: str
    provider_pace: float
    silent_share: float
    silent_hosts_min: int
    replica: str
    ready_file: Path | None
    log_level: str
    failpoints: Path | None = None

    @classmethod
    def from_env(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """Raises SettingsError naming the variable."""
        env = Environment(variables)
        return cls(
            nats_url=env.text("NATS_URL"),
            nats_user=env.text("NATS_USER", "health"),
            nats_password=env.secret("NATS_PASSWORD"),
            vast_url=env.text("VAST_URL", "https://console.vast.ai"),
            vast_read_key=env.secret("VAST_READ_KEY", ""),
            gce_url=env.text("GCE_URL", "https://compute.googleapis.com"),
            gce_project=env.text("GCE_PROJECT", ""),
            provider_pace=env.number("PROVIDER_PACE", 1.0),
            silent_share=env.number("SILENT_SHARE", 1.0),
            silent_hosts_min=int(env.number("SILENT_HOSTS_MIN", 3)),
            replica=env.replica(),
            ready_file=env.path("READY_FILE"),
            log_level=_level(env.text("LOG_LEVEL", "INFO")),
            failpoints=env.path("FAILPOINTS"),
        )


def _level(text: str) -> str:
    if text.upper() not in LOG_LEVELS:
        raise SettingsError(f"DUMONT_LOG_LEVEL={text!r} is none of {', '.join(LOG_LEVELS)}")
    return text.upper()
