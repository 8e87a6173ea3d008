"""The one way this product speaks SSH, and above all the one place that sorts its failures.

"Nobody answered", "it lives but refused us", "it is another host" and "the session broke" all
end in the same exit code of ssh(1), yet the first is evidence of a dead machine and the others
are not. So TCP and the first word of the peer are handled here, before the SSH library takes
over: what comes before that word is silence, everything after it comes from somebody alive.

Nothing of the user who runs this is read: no configuration, no agent, no default keys, no
known_hosts. Hosts are not trusted: what they say is bounded in size and cleaned before it can
reach a message.
"""

import asyncio
import errno
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from shared.certificates import host_principal
from shared.machines import Host, WorkspaceName

_NOBODY = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EPIPE,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    }
)
"""What the network says when nobody is there. Other errors of a socket are this machine's own."""

_PLAIN_HOST_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")
"""In a fixed order, so that a host with several keys shows the same one each time."""

_LINE_BYTES_MAX = 8 << 20
_OUTPUT_BYTES_MAX = 8 << 20
_STDERR_BYTES_MAX = 16 << 10
_TEXT_MAX = 400
_CHUNK = 64 << 10
_GOODBYE_SECONDS = 1.0
_KEEPALIVE_SECONDS = 5


class SshError(Exception):
    """Why a call over SSH did not do what was asked; always raised as one of the kinds below."""


class HostSilentError(SshError):
    """Nobody answered: refused, no route, timed out, or closed before a single byte came."""


class HostRefusedUsError(SshError):
    """The fault is ours: a login or certificate was refused, or this machine cannot connect.

    Says nothing against the host.
    """


class HostIdentityError(SshError):
    """Somebody answered who cannot prove to be a host of this workspace."""


class GateError(SshError):
    """The gate's own typed refusal: ``code`` for programs, ``reason`` and ``hint`` for people."""

    def __init__(self, code: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.hint = hint


class GateDiedError(SshError):
    """Somebody answered, and the session ended without a result: the outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key (OpenSSH PEM) and the certificate line that belongs to it."""

    private_key: str = field(repr=False)
    certificate: str


@dataclass(frozen=True, slots=True)
class Completed:
    """How a bootstrap command ended. ``host_key`` is the public key line that the host showed.

    ``exit_status`` is None when a signal ended the command.
    """

    stdout: bytes
    stderr: bytes
    exit_status: int | None
    host_key: str


def new_key() -> tuple[str, str]:
    """A fresh ed25519 pair: (private key as OpenSSH PEM, public key line)."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    return (
        key.export_private_key("openssh").decode(),
        key.export_public_key("openssh").decode().strip(),
    )


def certificate_validity(certificate: str) -> tuple[int, int]:
    """When a certificate line begins and ceases to be valid, in seconds since 1970.

    Raises ValueError when it is no ed25519 certificate.
    """
    try:
        blob = asyncssh.import_certificate(certificate).public_data
        rest = blob
        for _ in ("type", "nonce", "key"):
            (size,) = struct.unpack_from(">I", rest)
            rest = rest[4 + size :]
        rest = rest[12:]  # serial and kind
        for _ in ("key id", "principals"):
            (size,) = struct.unpack_from(">I", rest)
            rest = rest[4 + size :]
        after, before = struct.unpack_from(">QQ", rest)
    except (asyncssh.KeyImportError, struct.error) as error:
        raise ValueError(f"not a certificate: {error}") from None
    return after, before


def readable(raw: bytes) -> str:
    """What a host said, fit for a message: one line, printable, bounded."""
    text = raw[:_TEXT_MAX].decode(errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def last_answer(stdout: bytes) -> dict[str, Any]:
    """The answer in the whole output of a gate that was run by hand.

    Raises GateError, and GateDiedError when it holds no last line.
    """
    for line in stdout.splitlines():
        if (answer := _answer(_object(line) or {})) is not None:
            return answer
    raise GateDiedError("the gate ended without an answer")


async def tcp_connects(address: str, port: int, timeout: float) -> bool:
    """Whether a TCP connection opens within ``timeout`` seconds.

    Raises HostRefusedUsError when this machine itself cannot try.
    """
    try:
        async with asyncio.timeout(timeout):
            sock = await _connect(address, port)
    except (HostSilentError, TimeoutError):
        return False
    sock.close()
    return True


async def call_gate(
    host: Host,
    *,
    workspace: WorkspaceName,
    host_ca: str,
    identity: Identity,
    verb: str,
    payload: Mapping[str, Any],
    timeout: float,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    address: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Ask the gate of ``host`` for ``verb`` and return its answer.

    ``host_ca`` is the public key line of the workspace's host CA, the only proof of identity that
    is accepted. ``address`` says where to connect instead (through the endpoint). The whole call,
    connection included, ends within ``timeout`` seconds, and its session with it.
    Raises HostSilentError, HostRefusedUsError, HostIdentityError, GateError, GateDiedError.
    """
    where = address or (host.address, host.port)
    try:
        login: dict[str, Any] = {
            "username": host.user,
            "known_hosts": ([], [asyncssh.import_public_key(host_ca)], []),
            "host_key_alias": host_principal(workspace),
            # Plain keys are asked for too: a host without a certificate then shows its key and
            # is told apart by it, instead of hanging up without a reason.
            "server_host_key_algs": "default",
            "client_keys": [
                (
                    asyncssh.import_private_key(identity.private_key),
                    asyncssh.import_certificate(identity.certificate),
                )
            ],
        }
    except asyncssh.KeyImportError as error:
        raise HostRefusedUsError(f"our own key material is unusable: {error}") from None
    request = json.dumps(dict(payload), separators=(",", ":")).encode()
    async with _session(where, timeout, login) as connection:
        process = await connection.create_process(f"dumont {verb}", encoding=None)
        return await _converse(process, request, on_progress or _ignore)


async def run_root(
    host: Host,
    *,
    private_key: str,
    command: str,
    stdin: bytes = b"",
    timeout: float,
    known_host_key: str | None,
) -> Completed:
    """Run a shell command over the bootstrap key, on a host that has no certificates yet.

    ``known_host_key`` is the public key line that the host must show; None accepts whatever it
    shows, and ``Completed.host_key`` says what that was: pass it on to the next call.
    Raises HostSilentError, HostRefusedUsError, HostIdentityError, GateDiedError.
    """
    try:
        known = [] if known_host_key is None else [asyncssh.import_public_key(known_host_key)]
        key = asyncssh.import_private_key(private_key)
    except asyncssh.KeyImportError as error:
        raise HostRefusedUsError(f"our own key material is unusable: {error}") from None
    login: dict[str, Any] = {
        "username": host.user,
        "known_hosts": (known, [], []) if known else None,
        "server_host_key_algs": _PLAIN_HOST_KEYS,
        "client_keys": [key],
    }
    async with _session((host.address, host.port), timeout, login) as connection:
        shown = connection.get_server_host_key()
        assert shown is not None  # GSS key exchange is off, so there is always a key
        process = await connection.create_process(command, encoding=None)
        stdout, stderr = await _exchange(process, stdin)
        await process.wait_closed()
        return Completed(
            stdout=stdout,
            stderr=stderr,
            exit_status=process.exit_status if process.exit_signal is None else None,
            host_key=shown.export_public_key("openssh").decode().strip(),
        )


def _ignore(_progress: dict[str, Any]) -> None:
    """For callers who do not follow the progress."""


async def _connect(address: str, port: int) -> socket.socket:
    """Open TCP to the first of the address's forms that answers.

    Raises HostSilentError, or HostRefusedUsError when the fault is this machine's.
    """
    loop = asyncio.get_running_loop()
    try:
        forms = await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HostRefusedUsError(f"cannot look up {address!r}: {error}") from None
    last: OSError | None = None
    for family, kind, protocol, _, target in forms:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            raise HostRefusedUsError(f"cannot open a socket: {error}") from None
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, target)
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    if last is None or last.errno in _NOBODY:
        raise HostSilentError(f"{address} port {port} does not answer: {last}")
    raise HostRefusedUsError(f"cannot connect to {address} port {port} from here: {last}")


async def _first_word(sock: socket.socket) -> bytes:
    """What the peer says first, left in the socket; empty when it hung up without a word."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await readable
        return sock.recv(_TEXT_MAX, socket.MSG_PEEK)
    except OSError:
        return b""
    finally:
        loop.remove_reader(sock)


class _Login(asyncssh.SSHClient):
    """Remembers how far the login came, for telling a refusal from a broken session."""

    def __init__(self) -> None:
        self.done = False

    def auth_completed(self) -> None:
        self.done = True


@asynccontextmanager
async def _session(
    where: tuple[str, int], timeout: float, login: Mapping[str, Any]
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A logged-in connection, gone afterwards; every failure comes out as one of our kinds."""
    name = f"{where[0]} port {where[1]}"
    progress = _Login()
    word = b""
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(timeout):
            sock = await _connect(*where)
            word = await _first_word(sock)
            if not word:
                raise HostSilentError(f"{name} hung up without a word")
            connection = await _log_in(sock, where, progress, login)
            sock = None  # the connection's from here on
            try:
                yield connection
            except BaseException:
                connection.abort()
                raise
            finally:
                await _leave(connection)
    except TimeoutError:
        raise _too_late(name, timeout, word, progress) from None
    except (asyncssh.Error, OSError) as error:
        raise _sorted(name, word, progress, error) from None
    finally:
        if sock is not None:
            sock.close()


async def _log_in(
    sock: socket.socket,
    where: tuple[str, int],
    progress: _Login,
    login: Mapping[str, Any],
) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        where[0],
        where[1],
        sock=sock,
        config=None,
        client_factory=lambda: progress,
        agent_path=None,
        gss_auth=False,
        gss_kex=False,
        host_based_auth=False,
        kbdint_auth=False,
        password_auth=False,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=(),
        compression_algs=None,
        login_timeout=0,  # the whole call has one bound already
        keepalive_interval=_KEEPALIVE_SECONDS,
        **login,
    )


async def _leave(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    try:
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await connection.wait_closed()
    except TimeoutError:
        connection.abort()


def _too_late(name: str, timeout: float, word: bytes, progress: _Login) -> SshError:
    if not word:
        return HostSilentError(f"{name} said nothing within {timeout:g} s")
    if not progress.done:
        return GateDiedError(f"{name} answered but did not finish the login within {timeout:g} s")
    return GateDiedError(f"{name} did not finish within {timeout:g} s: the outcome is unknown")


def _sorted(name: str, word: bytes, progress: _Login, error: asyncssh.Error | OSError) -> SshError:
    """Which of our kinds an error is that came after the peer's first word."""
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        # The library checks the CA before the dates: bad dates mean that the CA was ours.
        if error.reason.startswith(("Certificate expired", "Certificate not yet valid")):
            return HostRefusedUsError(
                f"{name} shows a host certificate of ours outside its dates; "
                "check this machine's clock, then the renewal of host certificates"
            )
        return HostIdentityError(f"{name} is not the host that was meant: {error.reason}")
    if not word.startswith(b"SSH-"):
        return HostRefusedUsError(f"{name} answered {readable(word)!r} in place of an SSH banner")
    if isinstance(error, (asyncssh.ConnectionLost, OSError)):
        stage = "session" if progress.done else "login"
        return GateDiedError(f"{name} broke off during the {stage}: {error}")
    if isinstance(error, asyncssh.PermissionDenied):
        return HostRefusedUsError(f"{name} refused our key or certificate")
    return HostRefusedUsError(f"{name} and we do not get along: {readable(str(error).encode())}")


async def _converse(
    process: asyncssh.SSHClientProcess[bytes],
    request: bytes,
    on_progress: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Send one request, follow the lines of the answer up to the last one."""
    stderr = bytearray()
    drain = asyncio.create_task(_drain(process.stderr, stderr))
    try:
        await _feed(process.stdin, request)
        async for line in _lines(process.stdout):
            if isinstance(step := line.get("progress"), dict):
                on_progress(step)
            elif (answer := _answer(line)) is not None:
                return answer
        await process.wait_closed()
        await drain
    finally:
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
    raise GateDiedError(
        f"the gate ended without an answer (exit status {process.exit_status}): "
        f"{readable(bytes(stderr[-_TEXT_MAX:])) or 'it said nothing'}"
    )


async def _lines(stream: asyncssh.SSHReader[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects among the lines. Others are skipped: a login shell's start files may talk.

    Raises GateDiedError for a line without end.
    """
    buffer = bytearray()
    while chunk := await stream.read(_CHUNK):
        buffer += chunk
        if len(buffer) > _LINE_BYTES_MAX:
            raise GateDiedError(f"the gate sent a line of more than {_LINE_BYTES_MAX} bytes")
        if b"\n" not in chunk:
            continue
        *complete, buffer = buffer.split(b"\n")
        for line in complete:
            if (value := _object(line)) is not None:
                yield value


def _answer(line: dict[str, Any]) -> dict[str, Any] | None:
    """What a last line says, None for any other line. Raises GateError."""
    if isinstance(refusal := line.get("error"), dict):
        raise GateError(*(_text(refusal.get(key)) for key in ("code", "reason", "hint")))
    answer = line.get("ok")
    return answer if isinstance(answer, dict) else None


def _object(line: bytes | bytearray) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


async def _exchange(process: asyncssh.SSHClientProcess[bytes], stdin: bytes) -> tuple[bytes, bytes]:
    """Feed ``stdin``, collect both outputs up to their bounds."""
    stdout, stderr = bytearray(), bytearray()
    await asyncio.gather(
        _drain(process.stdout, stdout, _OUTPUT_BYTES_MAX),
        _drain(process.stderr, stderr),
        _feed(process.stdin, stdin),
    )
    return bytes(stdout), bytes(stderr)


async def _feed(stream: asyncssh.SSHWriter[bytes], data: bytes) -> None:
    try:
        stream.write(data)
        await stream.drain()
        stream.write_eof()
    except OSError:
        pass  # it did not want its input, or hung up: the answer, or its absence, tells


async def _drain(
    stream: asyncssh.SSHReader[bytes], into: bytearray, keep: int = _STDERR_BYTES_MAX
) -> None:
    """Read to the end, keeping the newest bytes: an unread stream would stop the other one."""
    while chunk := await stream.read(_CHUNK):
        into += chunk
        del into[:-keep]


def _text(value: object) -> str:
    return readable(str(value or "").encode())
