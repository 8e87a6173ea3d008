"""Hosts of one workspace: machines of their own namespaces with a real sshd and the real gate."""

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from services.recovery.adapters.authority import Authority
from services.recovery.adapters.gates import Gates
from services.recovery.adapters.hosts import SshHosts
from services.recovery.ports import Plan
from shared import clock, ssh
from shared.certificates import (
    ENTITLED,
    USER_LIFETIME,
    CertificateRequest,
    CertificateRole,
    host_principal,
)
from shared.machines import Host, MachineId, Role, WorkspaceName
from shared.policy import Policy
from simulator import image
from simulator.machine import Machine
from tests.support.ssh_server import free_port
from tests.support.waiting import PATIENCE

WORKSPACE = WorkspaceName("train")
ADDRESS = "127.0.0.2"


@dataclass(frozen=True, slots=True)
class LabHost:
    """A prepared machine; ``root`` is its disk as this computer sees it."""

    machine: Machine
    host: Host
    role: Role

    @property
    def root(self) -> Path:
        return self.machine.root

    @property
    def workspace(self) -> Path:
        """The tree that people work in, through the standby's link if need be."""
        if self.role is Role.STANDBY:
            return self.store / "live" / "tree"
        return self.root / "workspace"

    @property
    def store(self) -> Path:
        return self.root / "var" / "lib" / "dumont"

    @property
    def generations(self) -> list[str]:
        return sorted(path.name for path in (self.store / "generations").iterdir())

    def sealed(self, generation: str | None = None) -> Path:
        """The tree of a generation, of the newest by default."""
        return self.store / "generations" / (generation or self.generations[-1]) / "tree"

    def peer(self) -> dict[str, Any]:
        """How the standby is told to reach it."""
        return {
            "address": self.host.address,
            "port": self.host.port,
            "user": self.host.user,
            "path": "/workspace",
        }


class Lab:
    """A workspace's hosts and its authority; the test decides epochs and credentials."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self.epoch = 0
        """What the authority believes to be the current epoch."""
        self.authority = self._authority(USER_LIFETIME)
        self._hosts = SshHosts(self.authority, Gates(self.authority), now=clock.now)

    def _authority(self, life: timedelta) -> Authority:
        return Authority(
            self._directory / "keys",
            epoch_of=lambda _: self.epoch,
            now=clock.now,
            new_id=clock.new_id,
            user_lifetime=life,
        )

    def certify_for(self, life: timedelta) -> None:
        """Let the certificates that are made from now on live so long."""
        self.authority = self._authority(life)

    async def host(
        self,
        role: Role,
        *,
        name: str,
        epoch: int = 0,
        adopted: bool = False,
        people: tuple[str, ...] = (),
        furnish: Callable[[Path], None] = lambda root: None,
    ) -> LabHost:
        """A fresh machine, booted and prepared for an epoch."""
        machine = Machine(name, self._directory / name, ended=lambda: None)
        self._stack.push_async_callback(machine.remove)
        await machine.build(root_login="prohibit-password")
        image.authorize(machine.root, "root", [self.authority.bootstrap_public()])
        furnish(machine.root)
        port = free_port(ADDRESS)
        await machine.boot(address=ADDRESS, port=port, environment={}, script=None)
        host = Host(
            id=MachineId(name), provider="ssh", provider_id=name, address=ADDRESS, port=port
        )
        deadline = time.monotonic() + PATIENCE
        while not await ssh.tcp_connects(ADDRESS, port, 1.0):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        plan = Plan(
            workspace=WORKSPACE,
            role=role,
            path="/workspace",
            epoch=epoch,
            policy=Policy(ssh_keys=people),
            adopted=adopted,
        )
        self.epoch = epoch
        await self._hosts.prepare(host, plan)
        return LabHost(machine, host, role)

    def identity(self, epoch: int, role: CertificateRole) -> ssh.Identity:
        private_key, public_key = ssh.new_key()
        return ssh.Identity(private_key, self.certify(epoch, role, public_key))

    def certify(self, epoch: int, role: CertificateRole, public_key: str) -> str:
        self.epoch = epoch
        request = CertificateRequest(
            workspace=WORKSPACE, epoch=epoch, role=role, public_key=public_key
        )
        asker = next(service for service, roles in ENTITLED.items() if role in roles)
        reply = self.authority.sign_user(request, asker)
        assert not reply.error
        return reply.certificate

    async def ask(
        self,
        at: LabHost,
        role: CertificateRole,
        epoch: int,
        verb: str,
        payload: dict[str, Any] | None = None,
        *,
        timeout: float = 30.0,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        identity: ssh.Identity | None = None,
    ) -> dict[str, Any]:
        """One session with a gate, under a certificate made for it."""
        return await ssh.call_gate(
            at.host,
            workspace=WORKSPACE,
            host_ca=self.authority.host_ca_public(WORKSPACE),
            identity=identity or self.identity(epoch, role),
            verb=verb,
            payload=payload or {},
            timeout=timeout,
            on_progress=on_progress,
        )

    async def with_key(
        self, standby: LabHost, epoch: int, role: CertificateRole, **payload: Any
    ) -> dict[str, Any]:
        """A request that makes the standby reach another host with its key of this epoch."""
        key = await self.ask(standby, CertificateRole.WRITE, epoch, "keypair")
        return {
            "host_ca": self.authority.host_ca_public(WORKSPACE),
            "certificate": self.certify(epoch, role, key["public_key"]),
            "timeout": 30.0,
            **payload,
        }

    async def pull(
        self, standby: LabHost, gpu: LabHost, epoch: int, **payload: Any
    ) -> dict[str, Any]:
        request = await self.with_key(
            standby, epoch, CertificateRole.READ, source=gpu.peer(), **payload
        )
        return await self.ask(standby, CertificateRole.WRITE, epoch, "pull", request)

    async def seal(self, standby: LabHost, epoch: int, **payload: Any) -> dict[str, Any]:
        return await self.ask(standby, CertificateRole.WRITE, epoch, "seal", payload)

    async def push(
        self,
        standby: LabHost,
        gpu: LabHost,
        epoch: int,
        *,
        attempt: int = 1,
        final: bool = False,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        **payload: Any,
    ) -> dict[str, Any]:
        request = await self.with_key(
            standby,
            epoch,
            CertificateRole.WRITE,
            target=gpu.peer(),
            attempt=attempt,
            round=1,
            final=final,
            generation=None,
            **payload,
        )
        return await self.ask(
            standby, CertificateRole.WRITE, epoch, "push", request, on_progress=on_progress
        )

    async def promote(
        self, standby: LabHost, epoch: int, *, serve: bool, generation: str = ""
    ) -> dict[str, Any]:
        payload = {"epoch": epoch, "serve": serve, "generation": generation}
        return await self.ask(standby, CertificateRole.PROMOTE, epoch, "promote", payload)

    async def freeze(self, standby: LabHost, epoch: int) -> dict[str, Any]:
        return await self.ask(standby, CertificateRole.PROMOTE, epoch, "freeze", {"timeout": 5})

    async def raw(
        self, at: LabHost, role: CertificateRole, epoch: int, command: str, stdin: bytes = b""
    ) -> tuple[int | None, str, str]:
        """A session with whatever command under a true certificate: (exit status, out, err)."""
        async with self.held(at, role, epoch, command) as process:
            out, err = await process.communicate(stdin)
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    @asynccontextmanager
    async def held(
        self, at: LabHost, role: CertificateRole, epoch: int, command: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """The same as long as the test holds it open; ended afterwards."""
        process = await asyncio.create_subprocess_exec(
            *self.login(role, epoch),
            *("-T", "-p", str(at.host.port), f"root@{at.host.address}"),
            *([command] if command else []),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def login(self, role: CertificateRole, epoch: int) -> list[str]:
        """The ssh command of somebody who holds a true certificate."""
        identity = self.identity(epoch, role)
        key = self._directory / f"login-{clock.new_id()}"
        key.touch(mode=0o600)
        key.write_text(identity.private_key)
        certificate = key.with_name(f"{key.name}-cert.pub")
        certificate.write_text(f"{identity.certificate}\n")
        return ["ssh", *self._client_options(key), "-o", f"CertificateFile={certificate}"]

    def _client_options(self, key: Path) -> tuple[str, ...]:
        name = host_principal(WORKSPACE)
        known = self._directory / "known_hosts"
        known.write_text(f"@cert-authority {name} {self.authority.host_ca_public(WORKSPACE)}\n")
        options = (
            *("BatchMode=yes", "IdentitiesOnly=yes", "LogLevel=ERROR", f"HostKeyAlias={name}"),
            *("StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}"),
        )
        return ("-F", "none", "-i", str(key), *(w for o in options for w in ("-o", o)))

    async def as_people(self, at: LabHost, key: Path, command: str) -> tuple[int | None, str]:
        """Run a command as a person with plain ssh and the client lines that people are given."""
        return await self.log_in(at, key, "workspace", command)

    async def log_in(
        self, at: LabHost, key: Path, user: str, command: str
    ) -> tuple[int | None, str]:
        """Run a command with a plain key: (exit status, what was said)."""
        process = await asyncio.create_subprocess_exec(
            *("ssh", *self._client_options(key), "-p", str(at.host.port)),
            *(f"{user}@{at.host.address}", command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()


def people_key(directory: Path) -> tuple[Path, str]:
    """A person's key: (private file, public line)."""
    private_key, public_key = ssh.new_key()
    path = directory / "person"
    path.touch(mode=0o600)
    path.write_text(private_key)
    return path, public_key


@asynccontextmanager
async def lab(directory: Path) -> AsyncIterator[Lab]:
    """Everything in it ends with the test."""
    async with AsyncExitStack() as stack:
        yield Lab(directory, stack)


_THROTTLE = """
import os, sys, time
while chunk := os.read(0, 1 << 14):
    os.write(1, chunk)
    time.sleep(len(chunk) / 1000 / float(sys.argv[1]))
"""


def slow_rsync(kilobytes_per_second: int) -> Callable[[Path], None]:
    """Make a machine slow, in both directions, when it is the far end of a transfer."""

    def furnish(root: Path) -> None:
        (root / "opt/simulated/throttle.py").write_text(_THROTTLE)
        throttle = f"python3 -I -S /opt/simulated/throttle.py {kilobytes_per_second}"
        slow = root / "opt/simulated/bin/rsync"
        slow.write_text(
            "#!/bin/bash\n"
            'case " $* " in\n'
            '  *" --sender "*) shift; exec /usr/bin/rsync --server '
            f'--bwlimit={kilobytes_per_second} "$@";;\n'
            f'  *" --server "*) exec /usr/bin/rsync "$@" < <({throttle});;\n'
            "esac\n"
            'exec /usr/bin/rsync "$@"\n'
        )
        slow.chmod(0o755)

    return furnish


def processes_of(at: LabHost, word: bytes = b"") -> list[int]:
    """The processes of a machine that have ``word`` in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            inside = entry.name.isdigit() and (entry / "root").readlink() == at.root
            if inside and word in (entry / "cmdline").read_bytes().replace(b"\0", b" "):
                found.append(int(entry.name))
    return found


def tree_of(top: Path) -> dict[str, tuple[object, ...]]:
    """What is in a tree: type, mode and content by path. Shares no code with the product."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(directory, name)
            info = path.lstat()
            key = str(path.relative_to(top))
            if path.is_symlink():
                found[key] = ("link", str(path.readlink()))
            elif path.is_dir():
                found[key] = ("dir", stat.S_IMODE(info.st_mode))
            else:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[key] = ("file", stat.S_IMODE(info.st_mode), info.st_size, digest)
    return found


def fill(top: Path) -> None:
    """A small workspace with what trees are made of."""
    (top / "src" / "deep").mkdir(parents=True)
    (top / "src" / "train.py").write_text("print('step')\n")
    (top / "src" / "deep" / "empty").touch()
    (top / "src" / "run.sh").write_text("#!/bin/sh\n")
    (top / "src" / "run.sh").chmod(0o755)
    (top / "latest").symlink_to("src/train.py")
    (top / "outside").symlink_to("/usr/bin/python3")
    (top / "name with\nnewline").write_bytes(b"x")
    (top / "model.pt").write_bytes(os.urandom(300_000))
    os.link(top / "model.pt", top / "model-again.pt")
