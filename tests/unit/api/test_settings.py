"""What the api is told by its environment."""

from pathlib import Path

import pytest

from services.api.settings import Settings
from shared.environment import SettingsError


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    for name in ("nats", "log"):
        (tmp_path / name).write_text(f"{name}-password\n")
    (tmp_path / "key").write_text("a-key-that-is-long-enough\n")
    return {
        "DUMONT_NATS_URL": "nats://127.0.0.1:4222",
        "DUMONT_NATS_PASSWORD_FILE": str(tmp_path / "nats"),
        "DUMONT_LOG_DSN": "postgresql+asyncpg://dumont_api@127.0.0.1/dumont",
        "DUMONT_LOG_PASSWORD_FILE": str(tmp_path / "log"),
        "DUMONT_API_KEY_FILE": str(tmp_path / "key"),
    }


def test_the_defaults_listen_on_loopback_only(env: dict[str, str]) -> None:
    settings = Settings.from_env(env)
    assert (settings.host, settings.port) == ("127.0.0.1", 8700)
    assert settings.nats_user == "api"
    assert settings.api_key == "a-key-that-is-long-enough"


def test_secrets_never_show(env: dict[str, str]) -> None:
    shown = repr(Settings.from_env(env))
    assert "password\\n" not in shown and "a-key" not in shown and "log-password" not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DUMONT_NATS_URL", ""),
        ("DUMONT_LOG_DSN", ""),
        ("DUMONT_API_KEY_FILE", "/nowhere/key"),
        ("DUMONT_API_KEY_FILE", ""),
        ("DUMONT_API_PORT", "http"),
        ("DUMONT_API_PORT", "70000"),
        ("DUMONT_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_missing_or_bad_variable_is_named(env: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name.removesuffix("_FILE")):
        Settings.from_env({**env, name: value})


def test_a_key_that_is_easy_to_guess_is_refused(env: dict[str, str]) -> None:
    Path(env["DUMONT_API_KEY_FILE"]).write_text("hunter2\n")
    with pytest.raises(SettingsError, match="openssl rand"):
        Settings.from_env(env)
