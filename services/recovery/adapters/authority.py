"""The certificate authorities: who may log in where, for how long, in which role.

One user CA for the installation, one host CA for each workspace and the bootstrap key that a
fresh machine is prepared with. They live in one private directory that recovery alone reads,
and are made on first need. Everything else in the product holds short-lived certificates only.
"""

import os
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import asyncssh
from pydantic import ValidationError

from shared import ssh
from shared.certificates import (
    BACKDATE,
    ENTITLED,
    GPU_HOST_LIFETIME,
    REPLY,
    REQUEST,
    USER_LIFETIME,
    CertificateReply,
    CertificateRequest,
    CertificateRole,
    host_principal,
    principal,
)
from shared.clock import NewId, Now
from shared.machines import WorkspaceName, workspace_name

SERVICE = "recovery"
"""Under which name recovery itself asks."""

_AHEAD: dict[str, frozenset[CertificateRole]] = {
    # Recovery acts on the coming epoch before it is the current one; health watches the
    # candidate, whose gate knows the coming epoch already. Nobody else may run ahead.
    SERVICE: frozenset(CertificateRole),
    "health": frozenset({CertificateRole.PROBE}),
}

EpochOf = Callable[[WorkspaceName], int | None]
"""The current epoch of a workspace as the log has it; None for one that is not known."""


class AuthorityError(Exception):
    """A key cannot be made, read or trusted, or a certificate cannot be given; says which."""


class Authority:
    """Signs for everybody, from the keys in ``directory`` (0700, files 0600).

    Safe to run twice over the same directory: whoever makes a key first has made it for all.
    """

    def __init__(
        self,
        directory: Path,
        *,
        epoch_of: EpochOf,
        now: Now,
        new_id: NewId,
        user_lifetime: timedelta = USER_LIFETIME,
        host_lifetime: timedelta = GPU_HOST_LIFETIME,
    ) -> None:
        self._directory = directory
        self._epoch_of = epoch_of
        self._now = now
        self._new_id = new_id
        self._user_lifetime = user_lifetime
        self._host_lifetime = host_lifetime
        self._keys: dict[Path, asyncssh.SSHKey] = {}

    def user_ca_public(self) -> str:
        """The line that every gate trusts. Raises AuthorityError."""
        return _line(self._key("user_ca"))

    def host_ca_public(self, workspace: WorkspaceName) -> str:
        """The line by which hosts of this workspace are known. Raises AuthorityError."""
        return _line(self._host_ca(workspace))

    def bootstrap_public(self) -> str:
        """The line that a fresh machine is rented with. Raises AuthorityError."""
        return _line(self._key("bootstrap"))

    def bootstrap_private(self) -> str:
        """OpenSSH PEM, for the first connection to a fresh machine. Raises AuthorityError."""
        return self._key("bootstrap").export_private_key("openssh").decode()

    def sign_user(self, request: CertificateRequest, asker: str) -> CertificateReply:
        """Certify a service's key for one role at one epoch, or say why not.

        Raises AuthorityError when the CA cannot be used.
        """
        if refusal := self._refusal(request, asker):
            return CertificateReply(error=refusal)
        try:
            key = _public_key(request.public_key)
        except AuthorityError as error:
            return CertificateReply(error=str(error))
        now = self._now()
        name = principal(request.workspace, request.epoch, request.role)
        certificate = self._key("user_ca").generate_user_certificate(
            key,
            f"{asker} {name}",
            serial=self._serial(),
            principals=[name],
            valid_after=_seconds(now - BACKDATE),
            valid_before=_seconds(now + self._user_lifetime),
            permit_x11_forwarding=False,
            permit_agent_forwarding=False,
            permit_port_forwarding=False,
            permit_pty=False,
            permit_user_rc=False,
            comment=name,
        )
        return CertificateReply(certificate=_line(certificate))

    def sign_host(
        self, workspace: WorkspaceName, public_key: str, *, lifetime: timedelta | None = None
    ) -> str:
        """The certificate line by which a host proves that it belongs to ``workspace``.

        Raises AuthorityError.
        """
        now = self._now()
        certificate = self._host_ca(workspace).generate_host_certificate(
            _public_key(public_key),
            host_principal(workspace),
            serial=self._serial(),
            principals=[host_principal(workspace)],
            valid_after=_seconds(now - BACKDATE),
            valid_before=_seconds(now + (lifetime or self._host_lifetime)),
            comment=host_principal(workspace),
        )
        return _line(certificate)

    def identity(self, workspace: WorkspaceName, epoch: int, role: CertificateRole) -> ssh.Identity:
        """A fresh key with its certificate, for recovery's own sessions. Raises AuthorityError."""
        private_key, public_key = ssh.new_key()
        request = CertificateRequest(
            workspace=workspace, epoch=epoch, role=role, public_key=public_key
        )
        reply = self.sign_user(request, SERVICE)
        if reply.error:
            raise AuthorityError(reply.error)
        return ssh.Identity(private_key, reply.certificate)

    async def answer(self, body: bytes, asker: str) -> bytes:
        """Answer one request from the bus; ``asker`` is the service whose subject it came on.

        Always an encoded CertificateReply, whatever ``body`` holds; never raises.
        """
        try:
            request = REQUEST.validate_json(body)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, e["loc"])) or e["type"] for e in error.errors())
            return REPLY.dump_json(CertificateReply(error=f"request is not readable: {fields}"))
        try:
            reply = self.sign_user(request, asker)
        except AuthorityError as error:
            reply = CertificateReply(error=f"the authority cannot sign now: {error}")
        return REPLY.dump_json(reply)

    def _refusal(self, request: CertificateRequest, asker: str) -> str | None:
        """Why ``asker`` does not get this certificate; None when it does."""
        if request.role not in ENTITLED.get(asker, frozenset()):
            return f"{asker} is not entitled to the role {request.role}"
        current = self._epoch_of(request.workspace)
        if current is None:
            return f"workspace {request.workspace!r} is not known"
        newest = current + (request.role in _AHEAD.get(asker, frozenset()))
        if not current <= request.epoch <= newest:
            return (
                f"epoch {request.epoch} of {request.workspace} is not current (it is {current}): "
                "read the assignment again"
            )
        return None

    def _serial(self) -> int:
        return self._new_id().int & ((1 << 63) - 1)

    def _host_ca(self, workspace: WorkspaceName) -> asyncssh.SSHKey:
        try:
            name = workspace_name(workspace)  # it becomes a file name
        except ValueError as error:
            raise AuthorityError(str(error)) from None
        return self._key(f"host_ca/{name}")

    def _key(self, name: str) -> asyncssh.SSHKey:
        """The key kept under ``name``, made now if nobody has made it yet."""
        path = self._directory / name
        if path not in self._keys:
            try:
                _private_directory(self._directory)
                _private_directory(path.parent)
                if not path.exists():
                    _make_key(path)
                self._keys[path] = asyncssh.import_private_key(_read_private(path))
            except (OSError, asyncssh.KeyImportError) as error:
                raise AuthorityError(f"key {name}: cannot use {path}: {error}") from None
        return self._keys[path]


def _private_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        raise AuthorityError(f"{path} is open to others: make it mode 0700")


def _make_key(path: Path) -> None:
    """Put a fresh key at ``path`` unless there is one; a link never replaces, so the first wins."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment=f"dumont {path.name}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_private_key("openssh"))
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
        _sync_directory(path.parent)
    finally:
        temporary.unlink()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_private(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise AuthorityError(f"{path} is open to others: make it mode 0600")
    return path.read_bytes()


def _public_key(line: str) -> asyncssh.SSHKey:
    """A bare public key; a certificate or anything else raises AuthorityError."""
    try:
        return asyncssh.import_public_key(line)
    except asyncssh.KeyImportError as error:
        raise AuthorityError(f"not a public key line: {error}") from None


def _line(key: asyncssh.SSHKey | asyncssh.SSHCertificate) -> str:
    if isinstance(key, asyncssh.SSHCertificate):
        return key.export_certificate("openssh").decode().strip()
    return key.export_public_key("openssh").decode().strip()


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
