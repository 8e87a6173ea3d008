"""Everything that the recovery service can be told from outside. Durations are in seconds."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from shared.certificates import GPU_HOST_LIFETIME, USER_LIFETIME
from shared.credentials import ASK_SECONDS, RETRY_SECONDS
from shared.environment import Environment, SettingsError

INSTALLATION = re.compile(r"[a-z][a-z0-9]{0,10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``replica`` names this process among its like. Under the same name after a restart it takes
    its own lease back at once; under another one it waits until that ends.
    """

    nats_url: str
    nats_user: str
    nats_password: str = field(repr=False)
    log_dsn: str
    log_password: str = field(repr=False)
    haproxy_socket: str
    endpoint_host: str
    endpoint_probe_host: str
    endpoint_ports: tuple[int, ...]
    keys_dir: Path
    installation: str
    vast_url: str
    vast_key: str = field(repr=False)
    gce_url: str
    gce_project: str
    gce_zones: tuple[str, ...]
    gce_ssh_port: int
    provider_pace: float
    lease_seconds: float
    drive_interval: float
    sweep_interval: float
    poll_interval: float
    settle_seconds: float
    renew_interval: float
    notice_url: str = field(repr=False)
    certificate_seconds: float
    brake_share: float
    brake_workspaces_min: int
    rsync_oldest: str
    replica: str
    ready_file: Path | None
    head_file: Path | None
    head_seconds: float
    log_level: str
    failpoints: Path | None = None

    @classmethod
    def from_env(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """Raises SettingsError naming the variable."""
        env = Environment(variables)
        keys_dir = env.path("KEYS_DIR")
        if keys_dir is None:
            raise SettingsError("DUMONT_KEYS_DIR is not set: the directory for the CA keys")
        installation = env.text("INSTALLATION", "dumont")
        if not INSTALLATION.fullmatch(installation):
            raise SettingsError(
                f"DUMONT_INSTALLATION={installation!r} is not 1 to 11 lower-case letters and "
                "digits: it begins the names of machines"
            )
        endpoint_host = env.text("ENDPOINT_HOST", "127.0.0.1")
        settings = cls(
            nats_url=env.text("NATS_URL"),
            nats_user=env.text("NATS_USER", "recovery"),
            nats_password=env.secret("NATS_PASSWORD"),
            log_dsn=env.text("LOG_DSN"),
            log_password=env.secret("LOG_PASSWORD"),
            haproxy_socket=env.text("HAPROXY_SOCKET"),
            endpoint_host=endpoint_host,
            endpoint_probe_host=env.text("ENDPOINT_PROBE_HOST", endpoint_host),
            endpoint_ports=env.ports("ENDPOINT_PORTS", "20000-20009"),
            keys_dir=keys_dir,
            installation=installation,
            vast_url=env.text("VAST_URL", "https://console.vast.ai"),
            vast_key=env.secret("VAST_API_KEY", ""),
            gce_url=env.text("GCE_URL", "https://compute.googleapis.com"),
            gce_project=env.text("GCE_PROJECT", ""),
            gce_zones=env.words("GCE_ZONES"),
            gce_ssh_port=env.ports("GCE_SSH_PORT", "22")[0],
            provider_pace=env.number("PROVIDER_PACE", 1.0),
            lease_seconds=env.number("LEASE_SECONDS", 5.0),
            drive_interval=env.number("DRIVE_INTERVAL", 1.0),
            sweep_interval=env.number("SWEEP_INTERVAL", 30.0),
            poll_interval=env.number("POLL_INTERVAL", 3.0),
            settle_seconds=env.number("SETTLE_SECONDS", 60.0),
            notice_url=env.secret("NOTICE_URL", ""),
            renew_interval=env.number("RENEW_INTERVAL", 6 * 3600.0),
            certificate_seconds=env.number("CERTIFICATE_SECONDS", USER_LIFETIME.total_seconds()),
            brake_share=env.number("BRAKE_SHARE", 0.5),
            brake_workspaces_min=int(env.number("BRAKE_WORKSPACES_MIN", 5)),
            rsync_oldest=env.text("RSYNC_OLDEST", "3.5.0"),
            replica=env.replica(),
            ready_file=env.path("READY_FILE"),
            head_file=env.path("HEAD_FILE"),
            head_seconds=env.number("HEAD_SECONDS", 60.0),
            log_level=env.text("LOG_LEVEL", "INFO"),
            failpoints=env.path("FAILPOINTS"),
        )
        settings.demand_long_lives()
        return settings

    def demand_long_lives(self) -> None:
        """See that no certificate can run out while a recovery takes over from another.

        The services ask for the next one at half of its life, and the hosts are given theirs
        again each ``renew_interval``. Raises SettingsError.
        """
        gap = self.lease_seconds + ASK_SECONDS + RETRY_SECONDS
        if self.certificate_seconds / 2 <= gap:
            raise SettingsError(
                f"DUMONT_CERTIFICATE_SECONDS={self.certificate_seconds:g} is too short: half of it "
                f"must outlast a takeover and one more try, {gap:g} s with "
                f"DUMONT_LEASE_SECONDS={self.lease_seconds:g}"
            )
        if self.renew_interval > GPU_HOST_LIFETIME.total_seconds() / 2:
            raise SettingsError(
                f"DUMONT_RENEW_INTERVAL={self.renew_interval:g} is too long: a GPU's certificate "
                f"lives {GPU_HOST_LIFETIME.total_seconds():g} s, renew it at half of that or sooner"
            )
