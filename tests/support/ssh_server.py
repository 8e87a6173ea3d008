"""A real sshd on loopback, whose host key, certificate and key file a test decides."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.machines import Host, MachineId
from tests.support.waiting import PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class SshServer:
    """Files that sshd reads anew for each login may be changed while it runs."""

    address: str
    port: int
    authorized_keys: Path
    host_public_key: str

    def host(self, machine: str = "machine-1") -> Host:
        return Host(
            id=MachineId(machine),
            provider="ssh",
            provider_id="",
            address=self.address,
            port=self.port,
        )


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


def make_host_key(directory: Path) -> str:
    """A host key at ``directory/host_key``; returns its public line."""
    key = directory / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return key.with_suffix(".pub").read_text().strip()


def gate_line(principal: str, user_ca: str, command: Sequence[str | Path]) -> str:
    """One line of the kind that a prepared host holds for each role."""
    forced = " ".join(map(str, command))
    return f'cert-authority,principals="{principal}",restrict,command="{forced}" {user_ca}\n'


def python_program(directory: Path, name: str, source: str) -> tuple[str, str]:
    """A program for a gate line to force: (interpreter, path)."""
    path = directory / name
    path.write_text(source)
    return (f"{sys.executable} -S", str(path))


@asynccontextmanager
async def running_sshd(
    directory: Path,
    *,
    host_public_key: str,
    host_certificate: str = "",
    address: str = "127.0.0.1",
) -> AsyncIterator[SshServer]:
    """sshd over the key that ``make_host_key`` left in ``directory``, ended with its sessions."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    authorized_keys = directory / "authorized_keys"
    authorized_keys.touch()
    port = free_port(address)
    lines = [
        f"ListenAddress {address}:{port}",
        f"HostKey {directory / 'host_key'}",
        f"AuthorizedKeysFile {authorized_keys}",
        "AuthenticationMethods publickey",
        "PermitRootLogin prohibit-password",
        "PidFile none",
        "StrictModes no",
        "UsePAM no",
        "LogLevel VERBOSE",
    ]
    if host_certificate:
        (directory / "host_key-cert.pub").write_text(f"{host_certificate}\n")
        lines.append(f"HostCertificate {directory / 'host_key-cert.pub'}")
    (directory / "sshd_config").write_text("\n".join(lines) + "\n")
    process = await asyncio.create_subprocess_exec(
        "/usr/sbin/sshd", "-D", "-e", "-f", directory / "sshd_config",
        stderr=(directory / "sshd.log").open("wb"),
        start_new_session=True,
    )  # fmt: skip
    try:
        await _listening(address, port, process)
        yield SshServer(
            address=address,
            port=port,
            authorized_keys=authorized_keys,
            host_public_key=host_public_key,
        )
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listening(address: str, port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(PATIENCE):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection(address, port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return
    raise AssertionError(f"sshd ended with {process.returncode} before it listened")
