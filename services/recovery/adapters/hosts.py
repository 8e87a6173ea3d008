"""``Hosts`` over SSH: the bootstrap key prepares a machine, the gate does everything afterwards."""

import asyncio
import json
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from services.recovery.adapters.authority import Authority, AuthorityError
from services.recovery.adapters.gates import Gates
from services.recovery.ports import (
    Copy,
    HostError,
    HostUnreachableError,
    HostUnsuitableError,
    NoGenerationError,
    Plan,
    Promotion,
    Sighting,
)
from shared import gate, ssh
from shared.certificates import GPU_HOST_LIFETIME, CertificateRole
from shared.clock import Now
from shared.machines import Host, Role, WorkspaceName

RSYNC_OLDEST = "3.5.0"
"""What a standby must have: older ones can be led out of their directory by a rented host."""

STANDBY_CERTIFICATE = timedelta(days=30)
"""A standby is a machine of our own account, not of a stranger: its certificate may live longer."""

_NOT_ROOT, _NO_PYTHON, _NO_RSYNC, _NOT_WRITTEN = 81, 82, 83, 84

# Checks and repairs what the gate needs, then puts the gate (on standard input) in place whole or
# not at all: a connection that breaks ends the input early, which the size tells.
_PREFLIGHT = f"""\
umask 022
[ "$(id -u)" = 0 ] || exit {_NOT_ROOT}
missing=
command -v python3 >/dev/null 2>&1 || missing=python3
command -v rsync >/dev/null 2>&1 || missing="$missing rsync"
if [ -n "$missing" ] && command -v apt-get >/dev/null 2>&1; then
  export DEBIAN_FRONTEND=noninteractive
  get() {{ apt-get install -y --no-install-recommends $missing </dev/null >&2; }}
  get || {{ apt-get update </dev/null >&2 && get; }}
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' </dev/null || exit {_NO_PYTHON}
command -v rsync >/dev/null 2>&1 || exit {_NO_RSYNC}
mkdir -p {Path(gate.INSTALLED_AT).parent} || exit {_NOT_WRITTEN}
new={gate.INSTALLED_AT}.$$
trap 'rm -f "$new"' EXIT
cat >"$new" && [ "$(wc -c <"$new")" -eq SIZE ] || exit {_NOT_WRITTEN}
mv -f "$new" {gate.INSTALLED_AT} || exit {_NOT_WRITTEN}
"""

_UNSUITABLE = {
    _NOT_ROOT: (
        "its login is not root",
        "register the host with user root, or choose an image whose SSH login is root",
    ),
    _NO_PYTHON: (
        "it has no Python 3.9 or newer as python3",
        "install python3 on the host, or choose an image that has it",
    ),
    _NO_RSYNC: (
        "it has no rsync and none could be installed",
        "install rsync on the host, or choose an image that has it",
    ),
    _NOT_WRITTEN: (
        f"the gate cannot be written to {gate.INSTALLED_AT}",
        "make room on the host's disk, or choose a host whose /opt can be written",
    ),
}

_TRY_AGAIN = frozenset({"timeout", "busy", "still-writing", "jobs-alive", "internal"})
"""Refusals of the gate that may pass by themselves."""

_SETTLE_POLL = 0.1


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTimeouts:
    """In seconds. ``settle`` is how long a prepared host may take to answer through its gate.

    ``rollback`` is for a promotion that has to bring back an older copy first, file by file.
    """

    login: float = 10.0
    preflight: float = 180.0
    install: float = 30.0
    settle: float = 15.0
    look: float = 3.0
    generations: float = 5.0
    promote: float = 15.0
    rollback: float = 3600.0
    thaw: float = 15.0
    margin: float = 5.0


@dataclass(frozen=True, slots=True)
class _Promoted:
    """The gate's answer to ``promote``. ``taken_at`` is when the data was read from its source."""

    generation: str | None
    files: int
    bytes: int
    sealed_at: AwareDatetime | None
    taken_at: AwareDatetime | None = None
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Generation:
    """One of the gate's ``generations``: without its times when its seal is lost."""

    generation: str
    damaged: bool
    taken_at: AwareDatetime | None = None
    sealed_at: AwareDatetime | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    generations: tuple[_Generation, ...]


_PROMOTED = TypeAdapter(_Promoted)
_KEPT = TypeAdapter(_Kept)


class SshHosts:
    """Implements ``Hosts`` of the recovery service's ports."""

    def __init__(
        self,
        authority: Authority,
        gates: Gates,
        *,
        now: Now,
        timeouts: HostTimeouts | None = None,
        rsync_oldest: str = RSYNC_OLDEST,
    ) -> None:
        self._authority = authority
        self._gates = gates
        self._now = now
        self._timeouts = timeouts or HostTimeouts()
        self._rsync_oldest = rsync_oldest

    async def answers(self, host: Host) -> bool:
        """Whether sshd accepts our bootstrap key. False also while it is still booting.

        Raises HostUnsuitableError for a host of the user's own that lives and refuses the key:
        nobody puts it there but the user.
        """
        try:
            await self._root(host, "true", timeout=self._timeouts.login)
        except HostError as error:
            if host.provider == "ssh" and isinstance(error.__cause__, ssh.HostRefusedUsError):
                raise HostUnsuitableError(
                    f"{host.user}@{host.address}:{host.port} does not let us in",
                    f"add this line to the authorized_keys of {host.user} there: "
                    f"{self._authority.bootstrap_public().strip()}",
                ) from error
            return False
        return True

    async def locate(self, host: Host) -> Host:
        """HAProxy and the standby's ssh are given addresses, so that no switch waits for a name."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host.address, host.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            raise HostUnreachableError(
                f"{host.address} is no address that is known here: {error.strerror or error}",
                "give the host by its IP address",
            ) from None
        return replace(host, address=str(found[0][4][0]))

    async def prepare(self, host: Host, plan: Plan) -> None:
        """Install gate, keys and host certificate, and see that the gate answers with them.

        Idempotent per (host, epoch); doing it again renews the host certificate. Raises
        HostUnreachableError, HostUnsuitableError.
        """
        try:
            host_key = await self._push_gate(host)
            asked = await self._install(host, plan, host_key, certificate=None)
            public_key = asked.get("host_public_key")
            if not isinstance(public_key, str):
                raise HostUnsuitableError(f"{host.id}: the gate named no host key: {asked}")
            lifetime = GPU_HOST_LIFETIME if plan.role is Role.GPU else STANDBY_CERTIFICATE
            certificate = self._authority.sign_host(plan.workspace, public_key, lifetime=lifetime)
            await self._install(host, plan, host_key, certificate=certificate)
        except AuthorityError as error:
            raise _ours(host, error) from error
        await self._settle(host, plan)

    async def look(self, host: Host, *, workspace: WorkspaceName, epoch: int) -> Sighting:
        """Look at a host by TCP and SSH. SILENT only when nobody answered at all."""
        try:
            answer = await self._look(host, workspace, epoch, self._timeouts.look)
        except ssh.HostSilentError:
            return Sighting.SILENT
        except ssh.GateError:
            return Sighting.ANSWERS  # its gate refused this question, so it is there
        except (ssh.SshError, AuthorityError):
            return Sighting.UNKNOWN
        return Sighting.ANSWERS if answer.get("machine") == host.id else Sighting.UNKNOWN

    async def copies(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int
    ) -> Sequence[Copy]:
        """The generations that the standby holds, oldest first; of what lacks a seal nothing.

        Raises HostUnreachableError, HostUnsuitableError.
        """
        answer = await self._change(
            standby,
            workspace,
            epoch,
            verb="generations",
            payload={},
            timeout=self._timeouts.generations,
        )
        return [
            Copy(
                generation=kept.generation,
                taken_at=kept.taken_at,
                sealed_at=kept.sealed_at,
                whole=not kept.damaged,
            )
            for kept in _understood(standby, "generations", _KEPT, answer).generations
            if kept.taken_at is not None and kept.sealed_at is not None
        ]

    async def promote(
        self,
        standby: Host,
        *,
        workspace: WorkspaceName,
        epoch: int,
        serve: bool,
        generation: str = "",
    ) -> Promotion:
        """Raise the standby's epoch; with ``serve`` put the newest generation in people's hands.

        With ``generation`` it is that one, and the newer ones are passed over from then on; when it
        is not kept any more, the newest before it. When this returns no job of a lower epoch lives
        there. Idempotent per epoch. Raises HostUnreachableError, HostUnsuitableError,
        NoGenerationError.
        """
        answer = await self._change(
            standby,
            workspace,
            epoch,
            verb="promote",
            payload={"epoch": epoch, "serve": serve, "generation": generation},
            timeout=self._timeouts.rollback if generation else self._timeouts.promote,
        )
        promoted = _understood(standby, "promote", _PROMOTED, answer)
        return Promotion(
            generation=promoted.generation or "",
            files=promoted.files,
            bytes=promoted.bytes,
            age_seconds=self._age(promoted.taken_at or promoted.sealed_at),
            damaged=promoted.damaged,
        )

    async def freeze(
        self, standby: Host, *, workspace: WorkspaceName, epoch: int, timeout: float
    ) -> None:
        """End people's sessions and processes; nothing can write the promoted tree afterwards.

        The host is given ``timeout`` seconds. Raises HostUnreachableError, HostUnsuitableError.
        """
        await self._change(
            standby,
            workspace,
            epoch,
            verb="freeze",
            payload={"timeout": timeout},
            timeout=timeout + self._timeouts.margin,
        )

    async def thaw(self, standby: Host, *, workspace: WorkspaceName, epoch: int) -> None:
        """Let people in again. Raises HostUnreachableError, HostUnsuitableError."""
        await self._change(
            standby, workspace, epoch, verb="thaw", payload={}, timeout=self._timeouts.thaw
        )

    async def _push_gate(self, host: Host) -> str:
        """Bring the gate to the host; returns the host key that this preparation is bound to."""
        program = gate.source()
        command = f"sh -c {shlex.quote(_PREFLIGHT.replace('SIZE', str(len(program))))}"
        done = await self._root(
            host, command, stdin=program, timeout=self._timeouts.preflight, ends=_UNSUITABLE
        )
        return done.host_key

    async def _install(
        self, host: Host, plan: Plan, host_key: str, *, certificate: str | None
    ) -> dict[str, Any]:
        """One run of the gate's ``install``; returns what its last line says."""
        request = {
            "workspace": plan.workspace,
            "role": plan.role.value,
            "machine": host.id,
            "path": plan.path,
            "epoch": plan.epoch,
            "user_ca": self._authority.user_ca_public(),
            "people_keys": list(plan.policy.ssh_keys),
            "host_certificate": certificate,
            "adopted": plan.adopted,
            "rsync_oldest": self._rsync_oldest,
        }
        done = await self._root(
            host,
            f"python3 -I -S {gate.INSTALLED_AT} install",
            stdin=json.dumps(request).encode(),
            timeout=self._timeouts.install,
            host_key=host_key,
        )
        return _last_answer(host, done.stdout)

    async def _settle(self, host: Host, plan: Plan) -> None:
        """Wait until the host answers through its gate, with its certificate.

        sshd closes its port for a moment when it reads its configuration again, so silence is
        no verdict here until the time is up.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeouts.settle
        while True:
            try:
                answer = await self._look(host, plan.workspace, plan.epoch, self._timeouts.look)
                break
            except AuthorityError as error:
                raise _ours(host, error) from error
            except ssh.SshError as error:
                if loop.time() > deadline:
                    raise _unsettled(host, error) from error
            await asyncio.sleep(_SETTLE_POLL)
        if answer.get("machine") != host.id:
            raise HostUnsuitableError(f"{host.id}: another machine answers at its address")

    async def _look(
        self, host: Host, workspace: WorkspaceName, epoch: int, timeout: float
    ) -> dict[str, Any]:
        return await self._gates.ask(
            host,
            workspace=workspace,
            epoch=epoch,
            role=CertificateRole.PROBE,
            verb="look",
            payload={},
            timeout=timeout,
        )

    async def _change(
        self,
        standby: Host,
        workspace: WorkspaceName,
        epoch: int,
        *,
        verb: str,
        payload: Mapping[str, Any],
        timeout: float,
    ) -> dict[str, Any]:
        try:
            return await self._gates.ask(
                standby,
                workspace=workspace,
                epoch=epoch,
                role=CertificateRole.PROMOTE,
                verb=verb,
                payload=payload,
                timeout=timeout,
            )
        except ssh.SshError as error:
            raise _host_error(standby, error) from error
        except AuthorityError as error:
            raise _ours(standby, error) from error

    async def _root(
        self,
        host: Host,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float,
        host_key: str | None = None,
        ends: Mapping[int, tuple[str, str]] | None = None,
    ) -> ssh.Completed:
        """Run a command over the bootstrap key. ``ends`` says what its exit statuses mean."""
        try:
            done = await ssh.run_root(
                host,
                private_key=self._authority.bootstrap_private(),
                command=command,
                stdin=stdin,
                timeout=timeout,
                known_host_key=host_key,
            )
        except ssh.SshError as error:
            raise _host_error(host, error) from error
        except AuthorityError as error:
            raise _ours(host, error) from error
        if done.exit_status is None:
            raise HostUnreachableError(f"{host.id}: a signal ended our command")
        if done.exit_status in (ends or {}):
            reason, hint = (ends or {})[done.exit_status]
            raise HostUnsuitableError(f"{host.id}: {reason}", hint)
        if done.exit_status != 0:
            said = ssh.readable(done.stderr) or "it said nothing"
            raise HostUnsuitableError(
                f"{host.id}: our command ended with status {done.exit_status}: {said}"
            )
        return done

    def _age(self, since: datetime | None) -> float | None:
        return None if since is None else max(0.0, (self._now() - since).total_seconds())


def _last_answer(host: Host, stdout: bytes) -> dict[str, Any]:
    """The gate's last line. Raises HostUnreachableError, HostUnsuitableError."""
    try:
        return ssh.last_answer(stdout)
    except ssh.GateError as error:
        raise _host_error(host, error) from error
    except ssh.GateDiedError as error:
        raise HostUnsuitableError(f"{host.id}: {error}") from error


def _understood(host: Host, verb: str, shape: TypeAdapter[T], answer: Mapping[str, Any]) -> T:
    """An answer of the gate in its shape. Raises HostUnsuitableError."""
    try:
        return shape.validate_python(answer)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise HostUnsuitableError(
            f"{host.id}: its answer to {verb} is not readable at {places}"
        ) from None


def _host_error(host: Host, error: ssh.SshError) -> HostError:
    """Whether it is worth trying this host again."""
    match error:
        case ssh.GateError(code="no-generation", reason=reason, hint=hint):
            return NoGenerationError(f"{host.id}: {reason}", hint)
        case ssh.GateError(code=code, reason=reason, hint=hint):
            kind = HostUnreachableError if code in _TRY_AGAIN else HostUnsuitableError
            return kind(f"{host.id}: {reason}", hint)
        case ssh.HostIdentityError():
            return HostUnsuitableError(f"{host.id}: {error}", "see who has this address now")
        case ssh.HostRefusedUsError():
            return HostUnreachableError(
                f"{host.id}: {error}",
                "the host lives: check this machine's clock, and that the host has our keys",
            )
        case _:
            return HostUnreachableError(f"{host.id}: {error}")


def _unsettled(host: Host, error: ssh.SshError) -> HostError:
    """Why a host that was prepared does not answer as it should."""
    if isinstance(error, (ssh.HostIdentityError, ssh.HostRefusedUsError)):
        return HostUnsuitableError(
            f"{host.id}: its sshd did not take our settings: {error}",
            "its sshd_config must include /etc/ssh/sshd_config.d/*.conf before other settings",
        )
    return _host_error(host, error)


def _ours(host: Host, error: AuthorityError) -> HostUnreachableError:
    return HostUnreachableError(f"{host.id}: not asked, we have no key for it: {error}")
