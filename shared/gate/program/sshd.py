"""Telling the host's own sshd of our certificate and key files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess

from .answers import one_line
from .files import durable_write
from .host import Host
from .layout import ETC, HOST_KEY, PEOPLE, SSHD_CONFIG, SSHD_SNIPPET
from .processes import command_of, parent_of
from .refusals import Refusal


def admit(host: Host, certificate: str) -> None:
    """Tell sshd of the host certificate and the key files, and have it read that."""
    durable_write(f"{HOST_KEY}-cert.pub", f"{certificate}\n", 0o644)
    lines = [
        "# Written by dumont.",
        f"HostKey {HOST_KEY}",
        f"HostCertificate {HOST_KEY}-cert.pub",
        f"AuthorizedKeysFile {ETC}/keys/%u .ssh/authorized_keys",
        "PermitRootLogin prohibit-password",
        "ClientAliveInterval 15",
        "ClientAliveCountMax 3",
    ]
    for setting in (
        # A session reads there when its certificate ends, and with it its work.
        "ExposeAuthInfo yes",
        # Certificates are the lock here. A few sessions that break off, as in any failover,
        # must not shut out the controller.
        "PerSourcePenalties no",
    ):
        if takes(setting):
            lines.append(setting)
    if host.role == "standby":
        # People must not be able to open a second way in that a freeze would not close.
        lines += [f"Match User {PEOPLE}", f"    AuthorizedKeysFile {ETC}/keys/%u"]
    os.makedirs(os.path.dirname(SSHD_SNIPPET), exist_ok=True)
    durable_write(SSHD_SNIPPET, "\n".join(lines) + "\n", 0o644)
    include_snippet()
    tested = subprocess.run([sshd(), "-t"], capture_output=True, check=False)
    if tested.returncode != 0:
        os.unlink(SSHD_SNIPPET)
        raise Refusal("unsuitable", f"sshd does not take our settings: {one_line(tested.stderr)}")
    if listener := sshd_listener():
        os.kill(listener, signal.SIGHUP)


def sshd() -> str:
    return shutil.which("sshd") or "/usr/sbin/sshd"


def takes(setting: str) -> bool:
    """Whether this sshd knows the setting: with what it does not know it would not start."""
    test = [sshd(), "-t", "-f", "/dev/null", "-h", HOST_KEY, "-o", setting.replace(" ", "=", 1)]
    return subprocess.run(test, capture_output=True, check=False).returncode == 0


def include_snippet() -> None:
    """Some images have an sshd_config that includes nothing; the first setting wins there."""
    with open(SSHD_CONFIG, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    if not re.search(r"^\s*Include\s+/etc/ssh/sshd_config\.d/", text, re.M | re.I):
        fresh = f"Include {SSHD_SNIPPET}\n{text}".encode(errors="surrogateescape")
        durable_write(SSHD_CONFIG, fresh, stat.S_IMODE(os.stat(SSHD_CONFIG).st_mode))


def sshd_listener() -> int | None:
    """The sshd that listens; None where each connection gets one of its own."""
    for path in ("/run/sshd.pid", "/var/run/sshd.pid"):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            pid = int(file.read())
            if command_of(pid).split(b"\0")[0].split(b" ")[0].rstrip(b":").endswith(b"sshd"):
                return pid
    found, pid = None, os.getppid()
    while pid > 0:
        command = command_of(pid)
        titled = command.startswith(b"sshd: ") and b"[listener]" in command
        if titled or command.split(b"\0")[0].endswith(b"/sshd"):
            found = pid
        pid = parent_of(pid)
    return found
