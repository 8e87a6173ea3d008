"""Everything that the api service can be told from outside."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from shared.environment import Environment, SettingsError

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
API_KEY_LENGTH_MIN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``port`` 0 takes a free one. ``endpoint_host`` is where people reach the workspaces.

    ``api_key`` is a first key, that of the actor ``admin``.
    """

    nats_url: str
    nats_user: str
    nats_password: str = field(repr=False)
    log_dsn: str
    log_password: str = field(repr=False)
    host: str
    port: int
    api_key: str = field(repr=False)
    endpoint_host: str
    ready_file: Path | None
    log_level: str

    @classmethod
    def from_env(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """Raises SettingsError naming the variable."""
        env = Environment(variables)
        return cls(
            nats_url=env.text("NATS_URL"),
            nats_user=env.text("NATS_USER", "api"),
            nats_password=env.secret("NATS_PASSWORD"),
            log_dsn=env.text("LOG_DSN"),
            log_password=env.secret("LOG_PASSWORD", ""),
            host=env.text("API_HOST", "127.0.0.1"),
            port=_port(env.text("API_PORT", "8700")),
            api_key=_key(env.secret("API_KEY")),
            endpoint_host=env.text("ENDPOINT_HOST", "127.0.0.1"),
            ready_file=env.path("READY_FILE"),
            log_level=_level(env.text("LOG_LEVEL", "INFO")),
        )


def _key(text: str) -> str:
    if len(text) < API_KEY_LENGTH_MIN or not text.isascii() or any(map(str.isspace, text)):
        raise SettingsError(
            f"DUMONT_API_KEY_FILE must hold one key of at least {API_KEY_LENGTH_MIN} ASCII "
            "characters without spaces; make one with: openssl rand -hex 32"
        )
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise SettingsError(f"DUMONT_API_PORT={text!r} is not a port from 0 to 65535")
    return int(text)


def _level(text: str) -> str:
    if text.upper() not in LOG_LEVELS:
        raise SettingsError(f"DUMONT_LOG_LEVEL={text!r} is none of {', '.join(LOG_LEVELS)}")
    return text.upper()
