"""Everything that the sync service can be told from outside."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from shared.environment import Environment, SettingsError

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``assignment_lease``: an assignment not read again for so many seconds begins nothing."""

    nats_url: str
    nats_user: str
    nats_password: str = field(repr=False)
    assignment_lease: float
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
            nats_user=env.text("NATS_USER", "sync"),
            nats_password=env.secret("NATS_PASSWORD"),
            assignment_lease=env.number("ASSIGNMENT_LEASE", 30.0),
            replica=env.replica(),
            ready_file=env.path("READY_FILE"),
            log_level=_level(env.text("LOG_LEVEL", "INFO")),
            failpoints=env.path("FAILPOINTS"),
        )


def _level(text: str) -> str:
    if text.upper() not in LOG_LEVELS:
        raise SettingsError(f"DUMONT_LOG_LEVEL={text!r} is none of {', '.join(LOG_LEVELS)}")
    return text.upper()
