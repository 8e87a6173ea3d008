"""Which stack a command speaks to: an address that was given, or the embedded one here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli import compose
from cli.client import Api
from cli.embedded import run_file
from cli.embedded.layout import Layout, default_dir
from cli.errors import CliError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the api is and the key for it."""

    url: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Where the event log is, for reading. ``endpoint_host`` is in no event."""

    dsn: str
    endpoint_host: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the options before the verb said. ``dir`` is the embedded stack's directory."""

    url: str | None = None
    key_file: Path | None = None
    dir: Path | None = None
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def layout(self) -> Layout:
        """The state directory of this user: keys that we made are kept there for any stack."""
        given = self.dir or self.env.get("DUMONT_DIR")
        return Layout.of(Path(given) if given else default_dir(self.env))

    def connection(self) -> Connection:
        """Raises UsageError, CliError."""
        url = self.url or self.env.get("DUMONT_URL")
        if url:
            return Connection(url=checked_url(url), key=self._key(checked_url(url)))
        layout = self.layout
        run = read_run(layout)
        if run is None:
            raise CliError(
                f"no stack runs in {layout.dir}",
                "start one with: dumont up --embedded, or name one with --url",
            )
        return Connection(url=str(run.facts["api_url"]), key=_read_secret(layout.secret("api_key")))

    def log(self) -> "Log":
        """How to read the log itself, as a role that can only SELECT.

        Raises UsageError, CliError.
        """
        if dsn := self.env.get("DUMONT_LOG_DSN"):
            path = self.env.get("DUMONT_LOG_PASSWORD_FILE")
            password = _read_secret(Path(path)) if path else ""
            return Log(dsn=dsn, password=password, endpoint_host=self._endpoint_host())
        if self.url or self.env.get("DUMONT_URL"):
            raise UsageError(
                "reading the log itself needs its own address",
                "set DUMONT_LOG_DSN and DUMONT_LOG_PASSWORD_FILE",
            )
        run = self.running()
        return Log(
            dsn=str(run.facts["log_dsn"]),
            password=_read_secret(self.layout.secret("postgres_reader")),
            endpoint_host=str(run.facts["endpoint_host"]),
        )

    def running(self) -> run_file.Run:
        """The embedded stack. Raises CliError when there is none."""
        run = read_run(self.layout)
        if run is None:
            raise CliError(
                f"no stack runs in {self.layout.dir}",
                "start one with: dumont up --embedded, or name one with --url",
            )
        return run

    def api(self) -> Api:
        """A client of the api, to be used as an async context manager."""
        connection = self.connection()
        return Api(connection.url, connection.key)

    def _endpoint_host(self) -> str:
        return self.env.get("DUMONT_ENDPOINT_HOST", "127.0.0.1")

    def _key(self, url: str) -> str:
        if self.key_file is not None:
            return _read_secret(self.key_file)
        if key := self.env.get("DUMONT_API_KEY"):
            return key.strip()
        if path := self.env.get("DUMONT_API_KEY_FILE"):
            return _read_secret(Path(path))
        if key := compose.api_key(url, self.env):
            return key
        raise UsageError(
            "the api needs a key", "give --key-file FILE, or set DUMONT_API_KEY or its _FILE"
        )


def read_run(layout: Layout) -> run_file.Run | None:
    """What the directory says is running. Raises CliError when it cannot be read."""
    try:
        return run_file.read(layout.run_file)
    except (OSError, ValueError) as error:
        raise CliError(
            f"cannot read {layout.run_file}: {error}", "run as the user who started the stack"
        ) from None


def checked_url(text: str) -> str:
    """An http or https address without its last slash. Raises UsageError."""
    if not text.startswith(("http://", "https://")):
        raise UsageError(f"{text!r} is not an address", "give it as http://HOST:PORT")
    return text.rstrip("/")


def _read_secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise CliError(
            f"cannot read the key in {path}: {error.strerror}",
            "name a file that you may read with --key-file",
        ) from None
