"""Addresses for machines: each its own, out of one network.

All of 127.0.0.0/8 already is this computer's, so nothing is configured there. An address of another
network is added to an interface while it is in use (for machines inside a container).
"""

import asyncio
import contextlib
import ipaddress
import secrets
import socket

LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
_VAST_PORTS = range(40_000, 65_000)
_LEAST_ADDRESSES = 128


class NoAddressError(Exception):
    """The network cannot give what is wanted; the text says what to do."""


class Network:
    """Hands out addresses and ports that nobody listens on, also not a second simulator."""

    def __init__(self, network: str, interface: str) -> None:
        try:
            self._network = ipaddress.IPv4Network(network)
        except ValueError as error:
            raise NoAddressError(f"machine network {network!r} is not usable: {error}") from error
        if self._network.num_addresses < _LEAST_ADDRESSES:
            raise NoAddressError(f"machine network {network} is too small: take a /25 or larger")
        self._interface = interface
        self._loopback = self._network.subnet_of(LOOPBACK)
        self._in_use: set[str] = set()

    async def take(self, *, port: int | None = None) -> str:
        """An address of its own; with ``port``, one where that port is free."""
        for _ in range(200):
            address = str(self._network[1 + secrets.randbelow(self._network.num_addresses - 2)])
            if address in self._in_use:
                continue
            await self._configure("add", address)
            if port is None or _free(address, port):
                self._in_use.add(address)
                return address
            await self._configure("del", address)
        raise NoAddressError(
            f"no address of {self._network} has port {port} free: a server of this computer "
            f"listens on it at every address (its own sshd?); choose another --gce-ssh-port"
        )

    def port(self, address: str) -> int:
        """A random free port for sshd at an address of ours, as Vast maps one."""
        for _ in range(200):
            port = secrets.choice(_VAST_PORTS)
            if _free(address, port):
                return port
        raise NoAddressError(f"no port of {_VAST_PORTS} is free at {address}")

    async def give_back(self, address: str) -> None:
        """The address is not used any more."""
        if address in self._in_use:
            self._in_use.discard(address)
            await self._configure("del", address)

    async def close(self) -> None:
        """Give everything back."""
        for address in sorted(self._in_use):
            await self.give_back(address)

    async def _configure(self, verb: str, address: str) -> None:
        if self._loopback:
            return
        command = ("ip", "addr", verb, f"{address}/32", "dev", self._interface)
        try:
            process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        except FileNotFoundError as error:
            text = "addresses outside 127.0.0.0/8 need the ip command: apt-get install iproute2"
            raise NoAddressError(text) from error
        _, complaint = await process.communicate()
        if process.returncode and verb == "add":
            raise NoAddressError(f"{' '.join(command)}: {complaint.decode().strip()}")


def _free(address: str, port: int) -> bool:
    with contextlib.closing(socket.socket()) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((address, port))
        except OSError:
            return False
        return True
