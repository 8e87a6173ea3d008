"""What recovery is told by its environment, and what it does not start with."""

from pathlib import Path

import pytest

from services.recovery.settings import Settings
from shared.environment import SettingsError
from tests.support.faults import fault


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    for name in ("nats", "log"):
        (tmp_path / name).write_text(f"{name}-password\n")
    return {
        "DUMONT_NATS_URL": "nats://127.0.0.1:4222",
        "DUMONT_NATS_PASSWORD_FILE": str(tmp_path / "nats"),
        "DUMONT_LOG_DSN": "postgresql+asyncpg://dumont_recovery@127.0.0.1/dumont",
        "DUMONT_LOG_PASSWORD_FILE": str(tmp_path / "log"),
        "DUMONT_HAPROXY_SOCKET": "/run/dumont/haproxy.sock",
        "DUMONT_KEYS_DIR": str(tmp_path / "keys"),
    }


def test_a_certificate_lives_fifteen_minutes_unless_set_otherwise(env: dict[str, str]) -> None:
    assert Settings.from_env(env).certificate_seconds == 900.0
    longer = env | {"DUMONT_CERTIFICATE_SECONDS": "1800"}
    assert Settings.from_env(longer).certificate_seconds == 1800.0


@fault(83)
@pytest.mark.parametrize(("life", "lease", "enough"), [(37, 10, True), (36, 10, False)])
def test_it_does_not_start_with_certificates_that_a_takeover_could_outlast(
    env: dict[str, str], life: int, lease: int, enough: bool
) -> None:
    tight = {"DUMONT_CERTIFICATE_SECONDS": str(life), "DUMONT_LEASE_SECONDS": str(lease)}
    if enough:
        Settings.from_env(env | tight)
        return
    with pytest.raises(SettingsError, match=r"CERTIFICATE_SECONDS=36 is too short.*18 s"):
        Settings.from_env(env | tight)


def test_it_does_not_start_if_host_certificates_would_be_renewed_too_late(
    env: dict[str, str],
) -> None:
    with pytest.raises(SettingsError, match="RENEW_INTERVAL=50000 is too long"):
        Settings.from_env(env | {"DUMONT_RENEW_INTERVAL": "50000"})


@fault(53)
def test_the_brake_on_mass_failovers_is_a_setting(env: dict[str, str]) -> None:
    assert Settings.from_env(env).brake_share == 0.5
    assert Settings.from_env(env).brake_workspaces_min == 5
    raised = env | {"DUMONT_BRAKE_SHARE": "0.9", "DUMONT_BRAKE_WORKSPACES_MIN": "20"}
    assert Settings.from_env(raised).brake_share == 0.9
    assert Settings.from_env(raised).brake_workspaces_min == 20
