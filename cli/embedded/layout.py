"""Where an embedded stack keeps its things: every path under its directory has its name here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PRODUCT = "dumont-failover"


def default_dir(env: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """The state directory of this user's stack, or of the system's when root."""
    env = os.environ if env is None else env
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/var/lib") / PRODUCT
    state = env.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / PRODUCT


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one stack. ``dir`` is absolute."""

    dir: Path

    @classmethod
    def of(cls, dir: Path) -> "Layout":
        return cls(dir.expanduser().resolve())

    @property
    def run_file(self) -> Path:
        """What runs now, kept true by the supervisor."""
        return self.dir / "run.json"

    @property
    def settings_file(self) -> Path:
        """What ``up`` asked for; read by the supervisor when it starts."""
        return self.dir / "stack.json"

    @property
    def supervisor_log(self) -> Path:
        return self.dir / "supervisor.log"

    @property
    def lock_file(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.dir / "supervisor.lock"

    @property
    def command_lock_file(self) -> Path:
        """Held by ``up`` and ``down`` while they change what runs."""
        return self.dir / "command.lock"

    @property
    def secrets(self) -> Path:
        return self.dir / "secrets"

    @property
    def keys(self) -> Path:
        """Recovery's certificate authorities and bootstrap key."""
        return self.dir / "keys"

    @property
    def people_keys(self) -> Path:
        """SSH keys that the CLI made for its user."""
        return self.dir / "people"

    @property
    def nats(self) -> Path:
        return self.dir / "nats"

    @property
    def postgres(self) -> Path:
        return self.dir / "postgres"

    @property
    def haproxy(self) -> Path:
        return self.dir / "haproxy"

    @property
    def ready(self) -> Path:
        return self.dir / "ready"

    def log(self, name: str) -> Path:
        return self.dir / "logs" / f"{name}.log"

    def secret(self, name: str) -> Path:
        return self.secrets / name

    def make(self) -> None:
        """Create the directories, private to us; the parent lets others through, not look.

        Raises OSError.
        """
        self.dir.mkdir(parents=True, exist_ok=True)
        # Under root Postgres runs as a user of its own and has to pass through to its data.
        self.dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
        private = (self.secrets, self.keys, self.people_keys, self.nats, self.haproxy, self.ready)
        for path in (*private, self.dir / "logs"):
            path.mkdir(exist_ok=True)
            path.chmod(0o700)
