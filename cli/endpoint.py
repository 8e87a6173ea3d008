"""SSH and rsync to a workspace through its stable address, with its host identity checked.

Every host that a workspace ever has shows a certificate of the workspace's own host CA under
one name, so one known_hosts line holds through every failover and no switch ever warns.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.embedded.files import write_private
from cli.embedded.layout import Layout
from cli.errors import CliError, UsageError
from shared.certificates import host_principal
from shared.machines import WorkspaceName

USER = "workspace"
CONNECT_TIMEOUT = 10
SSH_FAILED = 255
UPLOAD_PASSES_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How people reach a workspace. ``host_ca`` is the public key line of its host CA."""

    workspace: WorkspaceName
    host: str
    port: int
    host_ca: str

    @property
    def alias(self) -> str:
        """The name under which every host of the workspace is known."""
        return host_principal(self.workspace)

    def known_hosts_line(self) -> str:
        return f"@cert-authority {self.alias} {self.host_ca.strip()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An endpoint with the files that open it."""

    endpoint: Endpoint
    known_hosts: Path
    identity: Path | None = None

    def options(self) -> list[tuple[str, str]]:
        """Client settings in the words of ssh_config(5), strict about the host's identity."""
        endpoint = self.endpoint
        options = [
            ("HostName", endpoint.host),
            ("Port", str(endpoint.port)),
            ("User", USER),
            ("HostKeyAlias", endpoint.alias),
            ("UserKnownHostsFile", str(self.known_hosts)),
            ("GlobalKnownHostsFile", "/dev/null"),
            ("StrictHostKeyChecking", "yes"),
            ("HostKeyAlgorithms", "ssh-ed25519-cert-v01@openssh.com"),
            ("CheckHostIP", "no"),
            ("ServerAliveInterval", "5"),
            ("ServerAliveCountMax", "3"),
        ]
        if self.identity is not None:
            options += [("IdentityFile", str(self.identity)), ("IdentitiesOnly", "yes")]
        return options

    def ssh_config(self) -> str:
        """A Host block for ~/.ssh/config."""
        lines = [f"Host {self.endpoint.workspace} {self.endpoint.alias}"]
        lines += [f"    {name} {_quoted(value)}" for name, value in self.options()]
        return "\n".join(lines) + "\n"

    def ssh_argv(self, *command: str, batch: bool = False) -> list[str]:
        """The ssh command line; with ``batch`` it never asks a person anything."""
        options = self.options()
        if batch:
            options += [("BatchMode", "yes"), ("ConnectTimeout", str(CONNECT_TIMEOUT))]
        flags = [part for name, value in options for part in ("-o", f"{name}={_quoted(value)}")]
        # An empty configuration file: what is in the user's must not weaken the identity check.
        return ["ssh", "-F", "/dev/null", *flags, self.endpoint.alias, *command]


def endpoint_of(state: Mapping[str, object]) -> Endpoint | None:
    """The endpoint in a workspace's state as the api shows it; None while it has none yet."""
    endpoint = state.get("endpoint")
    if not isinstance(endpoint, Mapping):
        return None
    host_ca = endpoint.get("host_ca") or state.get("host_ca")
    host, port = endpoint.get("host"), endpoint.get("port")
    if not (isinstance(host, str) and isinstance(port, int) and isinstance(host_ca, str)):
        return None
    if not (host and host_ca):
        return None
    name = WorkspaceName(str(state["name"]))
    return Endpoint(workspace=name, host=host, port=port, host_ca=host_ca)


def access(layout: Layout, endpoint: Endpoint, identity: Path | None) -> Access:
    """Write the known_hosts file of this workspace and name the key to use.

    Without ``identity`` it is the key that the CLI made for its user, if there is one; else
    ssh tries its defaults.
    """
    prepare_people_dir(layout)
    known_hosts = layout.people_keys / f"known_hosts-{endpoint.workspace}"
    write_private(known_hosts, endpoint.known_hosts_line() + "\n")
    own = own_key_path(layout)
    if identity is None and own.exists():
        identity = own
    return Access(endpoint=endpoint, known_hosts=known_hosts, identity=identity)


def own_key_path(layout: Layout) -> Path:
    return layout.people_keys / "id_ed25519"


def own_key(layout: Layout) -> Path:
    """The private key that the CLI keeps for its user, made the first time."""
    prepare_people_dir(layout)
    path = own_key_path(layout)
    if not path.exists():
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dumont", "-f", str(path)]
        _run(argv, "make an SSH key")
    return path


def public_key(private: Path) -> str:
    """The public line of a private key file. Raises CliError."""
    beside = private.with_name(private.name + ".pub")
    if beside.is_file():
        return public_key_line(beside)
    if not private.is_file():
        raise UsageError(f"there is no key file {private}", "give --identity a private key")
    return _run(["ssh-keygen", "-y", "-f", str(private)], f"read the key {private}").strip()


def public_key_line(path: Path) -> str:
    """The one line of a public key file. Raises UsageError when it is something else."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(
            f"cannot read the public key {path}: {error.strerror}", "give the .pub file"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text file", "give the .pub file") from None
    if len(lines) != 1 or len(lines[0].split()) < 2 or "PRIVATE KEY" in lines[0]:
        raise UsageError(f"{path} is not one public key line", "give the .pub file")
    return lines[0]


def require_tools(*names: str) -> None:
    """Raises CliError that names what is missing and how to get it."""
    packages = {"ssh": "openssh-client", "ssh-keygen": "openssh-client", "rsync": "rsync"}
    for name in names:
        if shutil.which(name) is None:
            raise CliError(
                f"{name} is not installed here", f"apt-get install {packages.get(name, name)}"
            )


def prepare_people_dir(layout: Layout) -> None:
    try:
        layout.people_keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CliError(
            f"cannot write in {layout.dir}: {error.strerror}", "choose another with --dir"
        ) from None


async def answers(access: Access) -> str | None:
    """Log in and do nothing: None when that worked, else what ssh said."""
    process = await asyncio.create_subprocess_exec(
        *access.ssh_argv("true", batch=True),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    if process.returncode == 0:
        return None
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ssh ended with {process.returncode}"


# --- upload --------------------------------------------------------------------------------------


def check_source(directory: Path) -> Path:
    """The directory as an absolute path. Raises UsageError when it cannot be uploaded."""
    directory = directory.expanduser()
    if not directory.exists():
        raise UsageError(f"there is no directory {directory}", "give --from an existing directory")
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory", "give --from the directory it is in")
    if not os.access(directory, os.R_OK | os.X_OK):
        raise UsageError(f"{directory} is not readable for you", "run as a user who may read it")
    return directory.resolve()


def rsync_argv(access: Access, source: Path, path: str) -> list[str]:
    """One pass from ``source`` into ``path`` behind the endpoint; says what it changed.

    Owners stay behind: the account at the other end is unprivileged. Nothing is deleted there.
    """
    # rsync splits this by spaces and knows quotes, not backslashes.
    shell = " ".join(_shell_word(word) for word in access.ssh_argv(batch=True)[:-1])
    return [
        "rsync",
        "-rlptH",
        "--partial",
        "--protect-args",
        "--timeout=60",
        "--outbuf=L",
        "--out-format=%l %n",
        "-e",
        shell,
        f"{source}/",
        f"{access.endpoint.alias}:{path.rstrip('/')}/",
    ]


async def upload(
    access: Access, source: Path, path: str, *, on_bytes: Callable[[int], None] | None = None
) -> int:
    """Bring a directory into a workspace; returns the bytes of the files that were sent.

    Repeats until a pass finds nothing more to send, so that what changed meanwhile is there
    too. ``on_bytes`` hears the size of each file when it is through. Raises CliError.
    """
    total = 0
    for _ in range(UPLOAD_PASSES_MAX):
        sent = 0
        files = 0
        async for size in _upload_pass(rsync_argv(access, source, path)):
            files += 1
            sent += size
            if on_bytes is not None:
                on_bytes(size)
        total += sent
        if files == 0:
            break
    return total


async def _upload_pass(argv: Sequence[str]) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdout is not None and process.stderr is not None
    said = asyncio.create_task(process.stderr.read())
    try:
        async for line in process.stdout:
            size, _, name = line.partition(b" ")
            if size.isdigit() and not name.rstrip(b"\n").endswith(b"/"):
                yield int(size)
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    stderr = (await said).decode(errors="replace")
    if status not in {0, VANISHED}:
        raise upload_error(status, stderr)


VANISHED = 24
"""rsync: some files went away while it read them. They are not there any more; that is all."""

_NO_SPACE = "No space left on device"
_UNREADABLE = "Permission denied"


def upload_error(status: int, stderr: str) -> CliError:
    """What an rsync that failed means for a person."""
    lines = [line for line in stderr.strip().splitlines() if not line.startswith("rsync error:")]
    first = lines[0] if lines else f"rsync ended with {status}"
    if _NO_SPACE in stderr:
        return CliError(
            "the disk of the standby is full",
            "take a larger one: --policy standby_disk_gb=N (the workspace can be removed first)",
        )
    if status == SSH_FAILED:
        return CliError(f"the endpoint did not let us in: {first}", "see: dumont status")
    if status == 23 and _UNREADABLE in stderr:
        return CliError(
            f"not everything could be read: {first}",
            "make it readable for you, or run as a user who may read it; then add it again",
        )
    return CliError(f"the upload failed: {first}", "see: dumont status; then add it again")


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value


def _shell_word(word: str) -> str:
    return f"'{word}'" if any(c in word for c in ' "') else word


def _run(argv: Sequence[str], what: str) -> str:
    require_tools(argv[0])
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise CliError(f"could not {what}: {done.stderr.strip() or done.returncode}")
    return done.stdout
