"""Start and end an embedded stack from outside: what ``up`` and ``down`` do.

Nothing here trusts a pid by its number, and nothing is left behind: a stack whose supervisor was
killed is found in its run file, and by the mark that each of its processes carries.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cli.embedded import processes, run_file
from cli.embedded.files import last_lines
from cli.embedded.layout import Layout
from cli.embedded.ports import free_block, is_free, require_free
from cli.embedded.settings import LOOPBACK, Settings, read_settings, write_settings
from cli.errors import CliError

ENDPOINT_COUNT = 10
SPACE_MIN_BYTES = 300_000_000
"""For an empty database with its write-ahead log, the streams, and their first growth."""
PROJECT = str(Path(__file__).resolve().parents[2])
"""Where the packages are: found from there also when they are not installed."""
_POLL = 0.05
_SUPERVISOR_GRACE = 20.0
_ORPHAN_GRACE = 3.0
_LOCK_SECONDS = 90.0
_PATHS = ("_FILE", "GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG")


@contextmanager
def command_lock(layout: Layout) -> Iterator[None]:
    """One ``up`` or ``down`` at a time for a directory. Raises CliError."""
    descriptor = os.open(layout.command_lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CliError(f"another up or down is busy in {layout.dir}") from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def prepare_directory(layout: Layout) -> None:
    """Raises CliError when the directory cannot be used."""
    try:
        layout.make()
    except OSError as error:
        raise CliError(
            f"cannot use {layout.dir}: {error.strerror}", "choose another with --dir"
        ) from None


def require_space(layout: Layout, *paths: Path) -> None:
    """Raises CliError when a first start would fill the disk of one of these paths.

    A stack that ran before is started whatever there is left: it may be needed just now.
    """
    if layout.settings_file.exists():
        return
    for path in (layout.dir, *paths):
        there = next(place for place in (path, *path.parents) if place.exists())
        free = shutil.disk_usage(there).free
        if free < SPACE_MIN_BYTES:
            raise CliError(
                f"{there} has {free // 1_000_000} MB free; a stack needs "
                f"{SPACE_MIN_BYTES // 1_000_000} MB to begin with",
                "free some, or choose another directory with --dir",
            )


def running(layout: Layout) -> run_file.Run | None:
    """The stack of this directory if its supervisor lives. Raises CliError."""
    run = _read(layout)
    return run if run is not None and processes.alive(run.supervisor) else None


def choose_ports(
    layout: Layout,
    *,
    endpoint_host: str,
    api_port: int | None,
    endpoint_ports: tuple[int, int] | None,
) -> Settings:
    """Ports for a start: as given, else those of the last start, else free ones.

    People have the endpoint's ports in their ssh configuration, and the log names them: they
    stay what they were. Raises CliError when one that has to be it is in use.
    """
    before = _settings_before(layout)
    if endpoint_ports is None and before is not None:
        endpoint_ports = before.endpoint_ports
    if endpoint_ports is None:
        first = free_block(endpoint_host, ENDPOINT_COUNT)
        endpoint_ports = (first, first + ENDPOINT_COUNT - 1)
    endpoints = range(endpoint_ports[0], endpoint_ports[1] + 1)
    require_free(endpoint_host, endpoints, "--endpoint-ports")
    taken = list(endpoints)
    if api_port is not None:
        require_free(LOOPBACK, [api_port], "--api-port")
        taken.append(api_port)
    else:
        api_port = _own_port(before.api_port if before else None, taken)
    nats_port = _own_port(before.nats_port if before else None, taken)
    postgres_port = _own_port(before.postgres_port if before else None, taken)
    return Settings(
        installation=before.installation if before else new_installation(),
        api_port=api_port,
        nats_port=nats_port,
        postgres_port=postgres_port,
        endpoint_ports=endpoint_ports,
        endpoint_host=endpoint_host,
    )


def new_installation() -> str:
    """A name of its own for each stack: two that share an account must not mistake each other's
    machines for orphans. No hyphen, or it would begin with the name of another.
    """
    return f"dumont{secrets.token_hex(2)}"


def _own_port(before: int | None, taken: list[int]) -> int:
    """A port that nobody outside needs to know: the one of the last start when it is still free."""
    fits = before is not None and before not in taken and is_free(LOOPBACK, before)
    port = before if before is not None and fits else free_block(LOOPBACK, 1, avoid=taken)
    taken.append(port)
    return port


def start(layout: Layout, settings: Settings, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a supervisor that outlives us. ``env`` holds the providers' keys: memory only.

    Raises OSError.
    """
    write_settings(layout, settings)
    layout.run_file.unlink(missing_ok=True)
    environment = {
        "DUMONT_INSTALLATION": settings.installation,
        **{name: _absolute(name, value) for name, value in env.items()},
        processes.MARK: str(layout.dir),
        "PYTHONPATH": PROJECT,
    }
    with layout.supervisor_log.open("ab") as log:
        layout.supervisor_log.chmod(0o600)
        return subprocess.Popen(
            [sys.executable, "-m", "cli.embedded.supervisor", "--dir", str(layout.dir)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=layout.dir,
            start_new_session=True,
        )


def wait_ready(
    layout: Layout, seconds: float, supervisor: "subprocess.Popen[bytes] | None" = None
) -> run_file.Run:
    """Wait until every child is ready. Raises CliError that quotes what is not.

    ``supervisor`` is the one that we just started, which may end before it wrote anything.
    """
    deadline = time.monotonic() + seconds
    run = None
    while time.monotonic() < deadline:
        run = _read(layout)
        if run is not None and not processes.alive(run.supervisor):
            break
        if supervisor is not None and supervisor.poll() is not None:
            break
        if run is not None and _complete(run):
            return run
        time.sleep(_POLL)
    raise CliError(_why_not(layout, run, seconds), f"the logs are in {layout.log('NAME').parent}")


def _complete(run: run_file.Run) -> bool:
    return not _missing(run) and all(child.ready for child in run.children.values())


def _why_not(layout: Layout, run: run_file.Run | None, seconds: float) -> str:
    """What is missing, with the last lines of its log."""
    if run is None or not processes.alive(run.supervisor):
        said = " | ".join(last_lines(layout.supervisor_log, 3))
        return f"the supervisor ended: {said or 'it said nothing'}"
    missing = _missing(run)
    lines = [f"not ready after {seconds:.0f} s: {', '.join(missing)}"]
    told = last_lines(layout.supervisor_log, 200, limit=1 << 16)
    for name in missing:
        # One that could not even be prepared has no log of its own.
        failed = [line for line in told if f" {name} did not start: " in line]
        quotes = [line.partition(" ")[2] for line in failed[-1:]]
        quotes += [f"{name}: {line}" for line in last_lines(layout.log(name), 3)]
        lines += [f"  {line}" for line in quotes]
    return "\n".join(lines)


def _missing(run: run_file.Run) -> list[str]:
    """The children that are not ready, or were never started, in the order of their dependence."""
    expected = run.facts.get("children")
    names = list(map(str, expected)) if isinstance(expected, list) else list(run.children)
    return [name for name in names if name not in run.children or not run.children[name].ready]


def end(layout: Layout) -> int:
    """End everything of this directory's stack; how many processes there were.

    A living supervisor ends its children in order; what is left then, or without one, is ended
    here. Raises CliError when something will not die.
    """
    run = _read(layout)
    listed = run.processes() if run is not None else []
    found = {*filter(processes.alive, listed), *processes.marked(layout.dir)}
    supervisors = [run.supervisor] if run is not None and run.supervisor in found else []
    # A supervisor that had no time to write its run file is found by its mark alone.
    supervisors += [p for p in found if p not in supervisors and _is_supervisor(p)]
    for supervisor in supervisors:
        processes.end([supervisor], grace=_SUPERVISOR_GRACE)
    if run is not None:
        _end_orphans(run)
    rest = {*filter(processes.alive, found), *processes.marked(layout.dir)}
    if stubborn := processes.end(rest, grace=_ORPHAN_GRACE):
        pids = ", ".join(str(process.pid) for process in stubborn)
        raise CliError(f"these processes will not end: {pids}", f"see what they are: ps -fp {pids}")
    layout.run_file.unlink(missing_ok=True)
    return len(found)


def _end_orphans(run: run_file.Run) -> None:
    """Give each child that is left the signal that it ends cleanly on, dependants first."""
    for child in reversed(list(run.children.values())):
        if child.process is not None:
            processes.send(child.process, signal.Signals(child.stop_signal))
    processes.wait_gone([c.process for c in run.children.values() if c.process], _ORPHAN_GRACE)


def _is_supervisor(process: processes.Process) -> bool:
    try:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"cli.embedded.supervisor" in command


def _read(layout: Layout) -> run_file.Run | None:
    try:
        return run_file.read(layout.run_file)
    except PermissionError:
        raise CliError(
            f"cannot read {layout.run_file}", "run as the user who started the stack"
        ) from None
    except (ValueError, json.JSONDecodeError) as error:
        raise CliError(f"{layout.run_file}: {error}", "end its processes, then remove it") from None


def _settings_before(layout: Layout) -> Settings | None:
    try:
        return read_settings(layout)
    except (FileNotFoundError, ValueError):
        return None


def _absolute(name: str, value: str) -> str:
    """Paths in the environment are the caller's; the supervisor works in another directory."""
    return str(Path(value).absolute()) if value and name.endswith(_PATHS) else value


def with_choices(
    settings: Settings, *, replicas: Mapping[str, int], variables: Sequence[str]
) -> Settings:
    return replace(settings, replicas=replicas, variables=tuple(variables))
