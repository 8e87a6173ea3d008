"""The first process of a simulated machine: makes its namespaces and mounts, then is its PID 1.

Run by itself (``python -I -S init.py PLAN``), never imported by the simulator. The outer process
stays in the computer's PID namespace: SIGTERM to it, or the death of the simulator, ends the whole
machine at once, as when a provider pulls a container. PLAN is a JSON file:
``root``, ``hostname``, ``binds`` (directories shown read-only), ``environment``, ``script`` (run at
boot, or null) and ``sshd`` (whether one starts). On standard output it says ``pid N`` and then
``ready`` or ``error TEXT``.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWPID = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x20000000,
)
_PR_SET_PDEATHSIG = 1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_SSHD = "/usr/sbin/sshd"
_SSHD_DEADLINE = 3.0

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    _call(
        f"mount {source} on {target}",
        _libc.mount(
            source.encode(), str(target).encode(), kind.encode(), flags, data.encode() or None
        ),
    )


def _die_with_parent() -> None:
    _call("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _separate() -> None:
    """Leave the computer's namespaces; nothing mounted from here on is seen outside."""
    kinds = _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID
    _call("unshare", _libc.unshare(kinds))
    _mount("none", Path("/"), flags=_MS_REC | _MS_PRIVATE)


def _furnish(root: Path, binds: list[str]) -> None:
    for source in binds:
        target = root / source.lstrip("/")
        _mount(source, target, flags=_MS_BIND | _MS_REC)
        _mount(source, target, flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    _mount("proc", root / "proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _furnish_dev(root / "dev")
    _clear(root / "run")
    (root / "run/sshd").mkdir(mode=0o755)
    (root / "run/lock").mkdir(mode=0o1777)


def _furnish_dev(dev: Path) -> None:
    _mount("tmpfs", dev, "tmpfs", _MS_NOSUID, "mode=755,size=65536k")
    for name in _DEVICES:
        (dev / name).touch()
        _mount(f"/dev/{name}", dev / name, flags=_MS_BIND)
    (dev / "pts").mkdir()
    _mount(
        "devpts",
        dev / "pts",
        "devpts",
        _MS_NOSUID | _MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620,gid=5",
    )
    (dev / "shm").mkdir()
    (dev / "shm").chmod(0o1777)
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        (dev / name).symlink_to(target)


def _clear(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _start(command: list[str], environment: dict[str, str], output: str | None = None) -> None:
    actions: list[tuple[Any, ...]] = []
    if output is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [(os.POSIX_SPAWN_OPEN, 1, output, flags, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)]
    os.posix_spawn(
        command[0],
        command,
        environment,
        file_actions=actions,
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM],
    )


def _live(plan: dict[str, Any]) -> None:
    """Be PID 1: furnish the machine, start what it runs, and reap the dead for ever."""
    _die_with_parent()
    root = Path(plan["root"])
    _furnish(root, plan["binds"])
    _call("sethostname", _libc.sethostname(plan["hostname"].encode(), len(plan["hostname"])))
    os.chroot(root)
    os.chdir("/")
    environment = dict(plan["environment"])
    if plan["sshd"]:
        _start([_SSHD, "-D", "-e"], environment)
    print("ready", flush=True)
    _onto_the_console()
    if plan["script"]:
        _await_sshd(plan["sshd"])
        _start(_script_command(plan["script"]), environment, "/var/log/boot-script.log")
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


def _await_sshd(comes: bool) -> None:
    """Scripts run after sshd is up, as the boot order of a real machine has it."""
    deadline = time.monotonic() + _SSHD_DEADLINE
    while comes and not Path("/run/sshd.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def _script_command(script: str) -> list[str]:
    with Path(script).open("rb") as file:
        own_interpreter = file.read(2) == b"#!"
    return [script] if own_interpreter else ["/bin/sh", script]


def _onto_the_console() -> None:
    """Standard output is read only until ``ready``; the console, our standard error, stays."""
    os.dup2(2, 1)


def _guard(child: int) -> int:
    """Wait for the machine's end; asked to end it, take PID 1 away and with it everything."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    _, status = os.waitpid(child, 0)
    return 0 if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def main(plan_path: str) -> int:
    """Start the machine that the plan describes and stay until it ends."""
    plan = json.loads(Path(plan_path).read_text())
    _die_with_parent()
    try:
        _separate()
    except OSError as error:
        print(f"error {error}", flush=True)
        return 1
    child = os.fork()
    if child:
        print(f"pid {child}", flush=True)
        return _guard(child)
    try:
        _live(plan)
    except OSError as error:
        print(f"error {error}", flush=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
