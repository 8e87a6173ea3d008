"""Reading settings from the environment, with errors that name the variable."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path


class SettingsError(ValueError):
    """A variable is missing or not usable; the message names it and says what to set."""


class Environment:
    """The variables of one process, all with the prefix ``DUMONT_``."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def text(self, name: str, default: str | None = None) -> str:
        """Raises SettingsError when it is missing and there is no default."""
        value = self._variables.get(f"DUMONT_{name}", "") or default
        if value is None:
            raise SettingsError(f"DUMONT_{name} is not set")
        return value

    def secret(self, name: str, default: str | None = None) -> str:
        """From ``DUMONT_name_FILE`` (a file's first line) or ``DUMONT_name``. Never logged."""
        path = self._variables.get(f"DUMONT_{name}_FILE", "")
        if not path:
            return self.text(name, default)
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SettingsError(f"DUMONT_{name}_FILE={path}: {reason}") from None

    def number(self, name: str, default: float) -> float:
        """A number greater than or equal to 0; may be a fraction."""
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(f"DUMONT_{name}={text!r} is not a number") from None
        if not 0 <= value < float("inf"):
            raise SettingsError(f"DUMONT_{name}={text} must be 0 or more")
        return value

    def ports(self, name: str, default: str) -> tuple[int, ...]:
        """A range of TCP ports such as ``20000-20009``, or one."""
        text = self.text(name, default)
        first, _, last = text.partition("-")
        try:
            ports = tuple(range(int(first), int(last or first) + 1))
        except ValueError:
            ports = ()
        if not ports or not all(0 < port < 65536 for port in ports):
            raise SettingsError(f"DUMONT_{name}={text!r} is not a range such as 20000-20009")
        return ports

    def replica(self) -> str:
        """The name of this process among its like: ``DUMONT_REPLICA``, or host name and number.

        No two processes that live under one host name have one number. A container has a host
        name of its own and its process the same number each time, so that it keeps its name
        over restarts.
        """
        return self.text("REPLICA", f"{socket.gethostname()}-{os.getpid()}")

    def words(self, name: str, default: str = "") -> tuple[str, ...]:
        """A list with commas between; may be empty."""
        return tuple(word.strip() for word in self.text(name, default).split(",") if word.strip())

    def path(self, name: str, default: str | None = None) -> Path | None:
        """None when it is not set and there is no default."""
        text = self._variables.get(f"DUMONT_{name}", "") or default
        return Path(text) if text else None
