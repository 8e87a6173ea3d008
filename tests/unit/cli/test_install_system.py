"""The script before everything else: silent when all is there, exact about what to type if not."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "deploy" / "install-system.sh"
POLICY = Path("/usr/sbin/policy-rc.d")
WANTED = ("rsync", "ssh", "ssh-keygen", "sshd", "unshare")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH of its own, with a Python and a user who is not root."""
    (tmp_path / "python3").symlink_to(sys.executable)
    script(tmp_path / "id", "echo 1000")
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def install(programs: Path, present: Iterable[str]) -> "subprocess.CompletedProcess[str]":
    for name in present:
        script(programs / name, "exit 0")
    return subprocess.run(
        ["/bin/sh", str(SCRIPT)],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_is_said_or_done_when_all_is_there(programs: Path) -> None:
    done = install(programs, WANTED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_who_may_not_install_is_told_what_to_type(programs: Path) -> None:
    done = install(programs, {*WANTED, "apt-get"} - {"rsync"})
    assert done.returncode == 1
    assert "sudo apt-get install --yes --no-install-recommends rsync\n" in done.stderr


def test_on_another_system_the_packages_are_named(programs: Path) -> None:
    done = install(programs, set(WANTED) - {"ssh", "rsync"})
    assert done.returncode == 1
    assert "package manager of this system: rsync openssh-client" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="writes where only root may")
def test_root_installs_while_no_service_may_start(programs: Path) -> None:
    before = POLICY.read_bytes() if POLICY.exists() else None
    script(programs / "id", "echo 0")
    for name in ("chmod", "rm", "cat"):
        (programs / name).symlink_to(Path("/bin") / name)
    asked = programs / "asked"
    script(programs / "apt-get", f'echo "$@" >>{asked}; cat {POLICY} >>{asked}')
    done = install(programs, set(WANTED) - {"rsync"})
    assert done.returncode == 0
    assert "install --yes --no-install-recommends rsync" in asked.read_text()
    assert "exit 101" in asked.read_text()
    assert (POLICY.read_bytes() if POLICY.exists() else None) == before


def test_an_old_python_is_named(programs: Path) -> None:
    (programs / "python3").unlink()
    script(programs / "python3", 'test "$1" = -V && echo Python 3.9.2; exit 1')
    done = install(programs, WANTED)
    assert done.returncode == 1
    assert "Python 3.9.2; 3.11 or newer is needed" in done.stderr
