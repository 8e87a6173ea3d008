#!/usr/bin/env python3
"""The gate: all that a certificate of ours can do on a host, and nothing else.

sshd runs it as the forced command of each key line. It knows its workspace, role and epoch from
its own arguments, which the client cannot touch; the client says only which verb it wants, as
``dumont VERB`` with one JSON object on standard input. The answer is lines of JSON: any number of
``{"progress": {...}}``, and last ``{"ok": {...}}`` or ``{"error": {"code", "reason", "hint"}}``.

What the standby promises is kept here, where no service and no network can be asked for leave:

* The epoch file is the fence. Every session compares its own epoch with it under one lock, again
  before each program it starts and again when it seals. ``promote`` raises it, ends every job of
  a lower epoch and waits until none is left before it answers.
* A generation is sealed whole or not at all: copied into a directory of its own, hashed, flushed
  to disk, and moved into place only after the copying processes are seen to be gone.
* A generation shares no file with anything that can be written: people get a private copy.

One file, the standard library and Python 3.9: it must run on whatever host was rented.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pwd
import re
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

STORE = "/var/lib/dumont"
EPOCH = f"{STORE}/epoch"
LOCK = f"{STORE}/lock"
JOBS = f"{STORE}/jobs"
KEYS = f"{STORE}/keys"
GENERATIONS = f"{STORE}/generations"
STAGING = f"{STORE}/staging"
READY = f"{STORE}/ready"
LIVE = f"{STORE}/live"
RETIRED = f"{STORE}/retired"
TRASH = f"{STORE}/trash"

ETC = "/etc/dumont"
HOST = f"{ETC}/host.json"
HOST_KEY = f"{ETC}/host_key"
GATE_LINES = f"{ETC}/keys/root"
PEOPLE_KEYS = f"{ETC}/people_keys"
PROGRAM = "/opt/dumont/gate.py"
SSHD_CONFIG = "/etc/ssh/sshd_config"
SSHD_SNIPPET = "/etc/ssh/sshd_config.d/00-dumont.conf"

PEOPLE = "workspace"
"""The account of people: an alias of root on a GPU, without any right on the standby."""

GENERATIONS_KEPT = 20
SHRINK_RATIO = 0.5
"""A source with less than this share of the last generation is held, not sealed."""

RSYNC_OLDEST = (3, 5, 0)
"""Older ones can be led out of their directory by the host they receive from."""

LOCK_SECONDS = 20.0
LANE_SECONDS = 10.0
KILL_SECONDS = 10.0
GRACE_SECONDS = 2.0
PROGRESS_SECONDS = 0.5
BYTES_PER_SECOND_MIN = 6_000_000
"""A transfer is never given less time than its bytes need at this rate."""

REQUEST_BYTES_MAX = 1 << 20
STDERR_BYTES_MAX = 16 << 10
BLOCK = 1 << 20
REFUSAL_MARK = "dumont-gate-refusal:"
"""How the gate of a GPU tells its reason through rsync's standard error."""

RSYNC_COMMON = ("-rlptH", "--no-devices", "--no-specials", "--numeric-ids", "--modify-window=-1")
"""Modification times are compared to the nanosecond: by the second, a rewrite within one second
and of the same size would never be seen."""

FilesByPath = dict[str, dict[str, Any]]
Answer = dict[str, Any]
Known = Callable[[str, os.stat_result], "str | None"]


class Refusal(Exception):
    """Why the gate does not do what it was asked: a code for programs, words for people."""

    def __init__(self, code: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.hint = hint


class ClientGoneError(Exception):
    """Nobody is there any more to hear the answer: what was begun is ended."""


# --- answers ---------------------------------------------------------------------------------


def say(kind: str, body: Answer) -> None:
    """One line of the answer. Raises ClientGoneError."""
    try:
        sys.stdout.write(json.dumps({kind: body}, separators=(",", ":")) + "\n")
        sys.stdout.flush()
    except OSError:
        raise ClientGoneError from None


def client_is_gone() -> bool:
    """Whether the other end of our standard output is closed: sshd closes it with the session."""
    poll = select.poll()
    poll.register(1, 0)
    return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))


def iso(nanoseconds: int) -> str:
    """A wall-clock time as ISO 8601 in UTC."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}+00:00"


def one_line(raw: bytes, limit: int = 300) -> str:
    """What another program said, fit for a message: its last words, printable."""
    text = raw[-4 * limit :].decode(errors="replace")
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words[-limit:]


# --- files -----------------------------------------------------------------------------------


def read_json(path: str) -> Any:
    """What a JSON file holds; None when it is not there or was torn by a crash."""
    try:
        with open(path, encoding="ascii") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def durable_write(path: str, text: str, mode: int = 0o600) -> None:
    """Replace a file so that a crash leaves the old or the new one, and the new one once done."""
    fresh = f"{path}.new"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
    fsync_directory(os.path.dirname(path))


def durable_json(path: str, value: Any) -> None:
    durable_write(path, json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n")


def fsync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_to_disk(path: str) -> None:
    """Write out everything of the filesystem that holds ``path``."""
    import ctypes  # noqa: PLC0415 - slow to import, and only sealing needs it

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if syncfs is None:
            os.sync()
        elif syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot flush {path}: {os.strerror(number)}")
    finally:
        os.close(fd)


def discard(path: str) -> None:
    """Take a directory away at once; its files are deleted when there is time."""
    if os.path.lexists(path):
        os.makedirs(TRASH, 0o700, exist_ok=True)
        os.rename(path, f"{TRASH}/{os.path.basename(path)}.{time.monotonic_ns()}.{os.getpid()}")


def empty_trash() -> None:
    shutil.rmtree(TRASH, ignore_errors=True)


# --- the lock and the epoch ------------------------------------------------------------------


class StoreLock:
    """The one lock of the store, between processes; the holder may take it again."""

    def __init__(self) -> None:
        self._depth = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Raises Refusal ``busy``."""
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        with file_lock(LOCK, LOCK_SECONDS, "another session holds the store"):
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0


@contextlib.contextmanager
def file_lock(path: str, seconds: float, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on a file. Raises Refusal ``busy`` when that takes too long."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while not try_lock(fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise Refusal("busy", f"{busy}, for more than {seconds:g} s", "try again")
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


store_lock = StoreLock()


def read_epoch() -> int:
    """The epoch of this host. Raises Refusal ``not-installed``."""
    try:
        with open(EPOCH, encoding="ascii") as file:
            return int(file.read())
    except (FileNotFoundError, ValueError):
        raise Refusal(
            "not-installed", f"{EPOCH} holds no epoch", "prepare this host again"
        ) from None


def demand_epoch(epoch: int) -> None:
    """Raises Refusal ``stale-epoch`` unless ``epoch`` is the one of this host; call it locked."""
    if (current := read_epoch()) != epoch:
        raise stale(epoch, current)


def stale(epoch: int, current: int) -> Refusal:
    return Refusal("stale-epoch", f"this session has epoch {epoch}, the host is at epoch {current}")


# --- jobs ------------------------------------------------------------------------------------


class Process(NamedTuple):
    """A line of the process table; ``started`` tells a process from a later one with its id."""

    pid: int
    group: int
    started: str
    dead: bool


def process_of(pid: str) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Process(int(pid), int(fields[2]), fields[19], fields[0] in "ZX")


def processes() -> list[Process]:
    """All living processes. Zombies hold nothing and write nothing: they do not count."""
    every = (process_of(name) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in every if process and not process.dead]


class Job(NamedTuple):
    """A registered process group; ``owner`` is the gate process that answers for it."""

    group: int
    epoch: int
    started: str
    owner: int


def register_job(epoch: int, owner: int) -> None:
    """Enter the calling process, the leader of its group, among the jobs of ``epoch``."""
    myself = process_of(str(os.getpid()))
    assert myself is not None
    with open(f"{JOBS}/{myself.pid}", "w", encoding="ascii") as file:
        file.write(f"{epoch} {myself.started} {owner}")


def unregister_job(group: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{JOBS}/{group}")


def registered_jobs() -> list[Job]:
    """Every registered job, dead or alive."""
    jobs = []
    for name in os.listdir(JOBS):
        with contextlib.suppress(FileNotFoundError, ValueError):
            with open(f"{JOBS}/{name}", encoding="ascii") as file:
                epoch, started, owner = file.read().split()
            jobs.append(Job(int(name), int(epoch), started, int(owner)))
    return jobs


def members(group: int, started: str) -> list[int]:
    """The living processes of a group, none when its id belongs to somebody else by now."""
    table = [process for process in processes() if process.group == group]
    if any(process.pid == group and process.started != started for process in table):
        return []
    return [process.pid for process in table]


def end_group(group: int, started: str) -> None:
    """Kill a process group and wait until nothing of it lives. Raises Refusal ``jobs-alive``."""
    deadline = time.monotonic() + KILL_SECONDS
    while members(group, started):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Refusal("jobs-alive", f"process group {group} does not end", "reboot this host")
        time.sleep(0.005)
    unregister_job(group)


def end_jobs_below(epoch: int) -> None:
    """End every job of a lower epoch and wait until none is left; call it locked."""
    mine = os.getpgrp()
    for job in registered_jobs():
        if job.epoch < epoch and job.group != mine:
            end_group(job.group, job.started)


def end_orphans() -> None:
    """End the jobs of gates that were killed: nobody answers for what they still do."""
    jobs = {job.group: job for job in registered_jobs()}
    for job in jobs.values():
        owner = jobs.get(job.owner)
        if owner is None or not members(owner.group, owner.started):
            end_group(job.group, job.started)


class Finished(NamedTuple):
    """How a program ended."""

    code: int
    out: bytes
    err: bytes


def run_job(
    argv: list[str],
    *,
    epoch: int,
    deadline: float,
    request: bytes = b"",
    on_output: Callable[[bytes], None] | None = None,
) -> Finished:
    """Run a program as a registered job of ``epoch``, in a process group of its own.

    ``deadline`` is of the monotonic clock. When this returns or raises, its group is empty.
    Raises Refusal ``stale-epoch`` and ``timeout``, ClientGoneError.
    """

    gate = os.getpid()

    def enlist() -> None:
        os.setsid()
        register_job(epoch, gate)

    with store_lock():
        demand_epoch(epoch)
        job = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/root"},
            cwd="/",
            preexec_fn=enlist,  # noqa: PLW1509 - one thread; it must be known before it runs
        )
        leader = process_of(str(job.pid))
    started = leader.started if leader else ""
    try:
        return follow(job, deadline, request, on_output)
    finally:
        end_group(job.pid, started)
        job.wait()


def follow(
    job: subprocess.Popen[bytes],
    deadline: float,
    request: bytes,
    on_output: Callable[[bytes], None] | None,
) -> Finished:
    """Collect a job's output until it ends, the time is up or nobody waits any more."""
    assert job.stdin and job.stdout and job.stderr
    with contextlib.suppress(BrokenPipeError):
        job.stdin.write(request)
        job.stdin.close()
    kept = {job.stdout.fileno(): bytearray(), job.stderr.fileno(): bytearray()}
    out, err = kept.values()
    try:
        while kept or job.poll() is None:
            readable = select.select(list(kept), [], [], 0.1 if kept else 0.01)[0]
            for fd in readable:
                chunk = os.read(fd, 64 << 10)
                if not chunk:
                    del kept[fd]
                    continue
                kept[fd] += chunk
                if kept[fd] is err:
                    del err[:-STDERR_BYTES_MAX]
                elif on_output:
                    on_output(chunk)
            if client_is_gone():
                raise ClientGoneError
            if time.monotonic() > deadline:
                raise Refusal("timeout", "the time for this was up before it was done")
    except (Refusal, ClientGoneError):
        ask_to_end(job)
        raise
    finally:
        job.stdout.close()
        job.stderr.close()
    return Finished(job.returncode, bytes(out), bytes(err))


def ask_to_end(job: subprocess.Popen[bytes]) -> None:
    """Give rsync the moment it needs to keep what it has of a big file."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(job.pid, signal.SIGTERM)
        job.wait(GRACE_SECONDS)


# --- manifests -------------------------------------------------------------------------------


def hash_file(path: str) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        while size := os.readv(fd, [buffer]):
            digest.update(buffer[:size])
    finally:
        os.close(fd)
    return digest.hexdigest()


def walk(tree: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below ``tree`` by its relative path, links not followed, the top left out."""
    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(os.path.join(tree, inside)) as entries:
            for entry in entries:
                relative = f"{inside}/{entry.name}" if inside else entry.name
                yield relative, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(relative)


def take_manifest(tree: str, known: Known) -> FilesByPath:
    """What is in a tree. ``known`` gives the hash of a file that need not be read again."""
    files: FilesByPath = {}
    by_inode: dict[int, str] = {}
    for relative, info in walk(tree):
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode):
            files[relative] = {"type": "dir", "mode": mode}
        elif stat.S_ISLNK(info.st_mode):
            target = os.readlink(os.path.join(tree, relative))
            files[relative] = {"type": "link", "target": target}
        elif stat.S_ISREG(info.st_mode):
            sha256 = by_inode.get(info.st_ino) or known(relative, info)
            sha256 = sha256 or hash_file(os.path.join(tree, relative))
            if info.st_nlink > 1:
                by_inode[info.st_ino] = sha256
            files[relative] = {"type": "file", "mode": mode, "size": info.st_size, "sha256": sha256}
    return files


def manifest_sha256(files: FilesByPath) -> str:
    canonical = json.dumps({"files": files}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def count(files: FilesByPath) -> tuple[int, int]:
    """How many files and links, and how many bytes in them."""
    kept = [entry for entry in files.values() if entry["type"] != "dir"]
    return len(kept), sum(entry.get("size", 0) for entry in kept)


def bytes_changed(before: FilesByPath, now: FilesByPath) -> int:
    """The size of the files that are new or differ in content."""
    return sum(
        entry["size"]
        for path, entry in now.items()
        if entry["type"] == "file" and entry["sha256"] != before.get(path, {}).get("sha256")
    )


# --- generations -----------------------------------------------------------------------------

_GENERATION = re.compile(r"e(\d{6})-(\d{8})")


class Generation(NamedTuple):
    """A sealed copy; ids sort as (epoch, sequence)."""

    id: str
    epoch: int
    sequence: int

    @property
    def tree(self) -> str:
        return f"{GENERATIONS}/{self.id}/tree"

    def seal(self) -> dict[str, Any]:
        """Its facts: counts, hash of the manifest, times."""
        sealed = read_json(f"{GENERATIONS}/{self.id}/seal.json")
        if not isinstance(sealed, dict):
            raise Refusal("damaged", f"generation {self.id} has no seal", "look at the disk")
        return sealed

    def files(self) -> FilesByPath:
        manifest = read_json(f"{GENERATIONS}/{self.id}/manifest.json")
        if not isinstance(manifest, dict):
            raise Refusal("damaged", f"generation {self.id} has no manifest", "look at the disk")
        files: FilesByPath = manifest["files"]
        return files


def generations() -> list[Generation]:
    """What is sealed, oldest first."""
    found = (_GENERATION.fullmatch(name) for name in sorted(os.listdir(GENERATIONS)))
    return [Generation(m.group(), int(m.group(1)), int(m.group(2))) for m in found if m]


def newest_generation() -> Generation | None:
    every = generations()
    return every[-1] if every else None


def find_generation(wanted: object) -> Generation:
    """The generation of this id, the newest for None. Raises Refusal ``no-generation``."""
    if wanted is None and (newest := newest_generation()):
        return newest
    for generation in generations():
        if generation.id == wanted:
            return generation
    raise Refusal("no-generation", f"there is no generation {wanted or 'at all'} here")


@contextlib.contextmanager
def in_use(generation: Generation) -> Iterator[None]:
    """Keep retention away from a generation."""
    fd = os.open(f"{GENERATIONS}/{generation.id}/seal.json", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def prune_generations() -> None:
    """Let go of old generations, never of the newest nor of one that is being sent."""
    for generation in generations()[:-GENERATIONS_KEPT]:
        fd = os.open(f"{GENERATIONS}/{generation.id}/seal.json", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if try_lock(fd, fcntl.LOCK_EX):
                discard(f"{GENERATIONS}/{generation.id}")
        finally:
            os.close(fd)


# --- ssh and rsync ---------------------------------------------------------------------------


class Peer(NamedTuple):
    """A host that the standby reaches, with what proves each to the other."""

    address: str
    port: int
    user: str
    ssh: list[str]

    @property
    def rsync_name(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.user}@{address}"

    @property
    def rsync_shell(self) -> str:
        return shlex.join(self.ssh)


def key_of(epoch: int) -> str:
    return f"{KEYS}/e{epoch}/id"


_ADDRESS = re.compile(r"[A-Za-z0-9.:][A-Za-z0-9.:-]*")
_USER = re.compile(r"[a-z_][a-z0-9_-]*")


@contextlib.contextmanager
def reach(session: Session, host: Any, payload: Answer) -> Iterator[Peer]:
    """How to reach a host with this epoch's key and the certificate that came with the request."""
    key = key_of(session.epoch)
    if not os.path.exists(key):
        raise Refusal("no-key", f"there is no key for epoch {session.epoch}", "ask for keypair")
    address, port, user = str(host["address"]), int(host["port"]), str(host["user"])
    if not _ADDRESS.fullmatch(address) or not _USER.fullmatch(user):
        raise Refusal("bad-request", f"{user!r} at {address!r} is no login")
    name = f"{session.host.workspace}.dumont"
    mark = f"{os.path.dirname(key)}/{os.getpid()}"
    known, certificate = f"{mark}.known_hosts", f"{mark}-cert.pub"
    for path, text in (
        (known, f"@cert-authority {name} {single(payload['host_ca'])}\n"),
        (certificate, f"{single(payload['certificate'])}\n"),
    ):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": known,
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": name,
        "CertificateFile": certificate,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UpdateHostKeys": "no",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "LogLevel": "ERROR",
    }
    ssh = ["ssh", "-F", "none", "-T", "-c", "aes128-gcm@openssh.com,chacha20-poly1305@openssh.com"]
    for option, value in options.items():
        ssh += ["-o", f"{option}={value}"]
    try:
        yield Peer(address, port, user, [*ssh, "-i", key, "-p", str(port)])
    finally:
        for path in (known, certificate):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def single(text: object) -> str:
    """A key or certificate line as it came, if it is one line."""
    line = str(text).strip()
    if not line or "\n" in line or "\r" in line:
        raise Refusal("bad-request", "a key or certificate must be exactly one line")
    return line


_UNREACHABLE = (
    b"Connection refused",
    b"Connection timed out",
    b"Operation timed out",
    b"No route to host",
    b"Network is unreachable",
    b"Connection reset",
    b"Connection closed",
    b"closed by remote host",
    b"not responding",
    b"Could not resolve",
    b"Broken pipe",
    b"kex_exchange_identification",
    b"unexpectedly closed",
)


def sort_failure(who: str, finished: Finished) -> Refusal:
    """Which code a failed ssh or rsync to ``who`` (source or candidate) has, and its last words."""
    words = one_line(finished.err)
    mark = REFUSAL_MARK.encode()
    if mark in finished.err:
        told = finished.err.split(mark, 1)[1].splitlines()[0]
        missing = told.startswith(b"source-missing ")
        return Refusal("source-missing" if missing else f"{who}-refused", one_line(told))
    if b"Host key verification failed" in finished.err or b"host certificate" in finished.err:
        return Refusal(f"{who}-identity", f"{who} is not a host of this workspace: {words}")
    if b"Permission denied (" in finished.err:
        return Refusal(f"{who}-refused-us", f"{who} does not accept our certificate: {words}")
    if b"No space left" in finished.err or b"Disk quota exceeded" in finished.err:
        return Refusal("disk-full", words, "give the host a bigger disk")
    if finished.code == 255 or any(text in finished.err for text in _UNREACHABLE):
        return Refusal(f"{who}-unreachable", f"{who} does not answer: {words}")
    return Refusal("rsync-failed", f"exit status {finished.code}: {words or 'it said nothing'}")


_STATISTIC = re.compile(rb"^(Number of regular files transferred|Total bytes sent): (\d+)", re.M)
_PROGRESS = re.compile(rb"(\d+)\s+(\d+)%")


def statistic(output: bytes, name: bytes) -> int:
    return next((int(m.group(2)) for m in _STATISTIC.finditer(output) if m.group(1) == name), 0)


class Progress:
    """Turns rsync's running total into lines for the client, not more often than it can use."""

    def __init__(self, bytes_total: int | None) -> None:
        self._total = bytes_total
        self._next = 0.0

    def __call__(self, output: bytes) -> None:
        seen = _PROGRESS.findall(output)
        if not seen or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PROGRESS_SECONDS
        done, percent = (int(number) for number in seen[-1])
        total = self._total if self._total is not None else done * 100 // max(percent, 1)
        say("progress", {"bytes_done": min(done, total), "bytes_total": total})


# --- copying into the store ------------------------------------------------------------------


class Source(NamedTuple):
    """Where a copy is taken from: a GPU through ssh, or the promoted tree here."""

    kind: str
    arguments: list[str]
    still: bool
    """Nothing can write there now."""


class Pass(NamedTuple):
    """What one run of rsync did."""

    moved: int
    vanished: bool


@contextlib.contextmanager
def lane(name: str) -> Iterator[None]:
    """One job of a kind at a time. Raises Refusal ``busy``."""
    with file_lock(f"{STORE}/{name}.lock", LANE_SECONDS, f"another {name} is running"):
        with store_lock():
            end_orphans()
        yield


def copy(session: Session, source: Source, *, timeout: float, accept_shrink: bool) -> Answer:
    """Copy a source, and seal the copy as a new generation if anything changed.

    Every pass goes into a fresh directory that takes what it already has from earlier ones by
    hard links. So nothing is ever changed in a file that a generation shares, and an attempt that
    failed is not lost: its files are linked, and a big one goes on from where it was cut.
    """
    begun, taken = time.monotonic(), time.time_ns()
    deadline = begun + timeout
    with lane("copy"):
        basis = newest_generation()
        bases = [path for path in [leftover(session.epoch), basis.tree if basis else None] if path]
        staging = transfer(session, source, bases, deadline)
        files_changing = 0
        if not source.still and (staging.moved or staging.vanished):
            # What was moved may have been written meanwhile, and what was renamed may have been
            # missed under both names: look again.
            again = transfer(session, source, [f"{staging.path}/tree", *bases], deadline)
            discard(staging.path)
            staging, files_changing = again, again.moved
        before = basis.files() if basis else {}
        if basis and source.kind == "live":
            settle_racy(staging.path, basis, before)
        files = take_manifest(f"{staging.path}/tree", known_from(basis, before))
        held = None if accept_shrink else shrank(before, files)
        changed = not basis or differs(basis, before, staging.path, files)
        facts = {"taken_at": iso(taken), "seconds": 0.0, "files_changing": files_changing}
        if held or not changed:
            assert basis
            discard(staging.path)
            sealed = {**basis.seal(), **facts, "bytes_changed": 0}
        else:
            facts["source"] = source.kind
            facts["taken_ns"] = taken
            basis, sealed = seal(session.epoch, staging.path, before, files, facts)
        ready = prepare_ready(session.epoch, basis, deadline)
        tidy(session.epoch)
    sealed["seconds"] = round(time.monotonic() - begun, 3)
    return {**sealed, "changed": changed and not held, "held": held, "ready": ready}


class Staged(NamedTuple):
    """A directory with a copy in it, and what the pass that made it did."""

    path: str
    moved: int
    vanished: bool


def transfer(session: Session, source: Source, bases: list[str], deadline: float) -> Staged:
    """Copy ``source`` into a fresh directory, linking what ``bases`` already hold."""
    staging = f"{STAGING}/e{session.epoch:06d}-{time.time_ns()}-{os.getpid()}"
    os.makedirs(f"{staging}/tree", 0o700)
    argv = ["rsync", *RSYNC_COMMON, "--stats", "--info=progress2", "--no-human-readable"]
    if source.kind == "gpu":
        argv.append(f"--partial-dir={STAGING}/partial")
    argv += [f"--link-dest={base}" for base in bases]
    argv += [*source.arguments, f"{staging}/tree/"]
    finished = run_job(argv, epoch=session.epoch, deadline=deadline, on_output=Progress(None))
    if finished.code not in (0, 24):
        raise sort_failure("source", finished)
    moved = statistic(finished.out, b"Number of regular files transferred")
    return Staged(staging, moved, finished.code == 24)


def leftover(epoch: int) -> str | None:
    """The tree of the last attempt of this epoch that did not end, to be linked from."""
    names = sorted(n for n in os.listdir(STAGING) if n.startswith(f"e{epoch:06d}-"))
    return f"{STAGING}/{names[-1]}/tree" if names else None


def known_from(basis: Generation | None, before: FilesByPath) -> Known:
    """The hash of a file that is the very same one, by hard link, as in the last generation."""

    def known(relative: str, info: os.stat_result) -> str | None:
        entry = before.get(relative)
        if basis is None or entry is None or entry["type"] != "file":
            return None
        try:
            old = os.lstat(os.path.join(basis.tree, relative))
        except FileNotFoundError:
            return None
        same = (old.st_ino, old.st_dev, old.st_size, old.st_mtime_ns) == (
            info.st_ino,
            info.st_dev,
            info.st_size,
            info.st_mtime_ns,
        )
        return str(entry["sha256"]) if same else None

    return known


def differs(basis: Generation, before: FilesByPath, staging: str, files: FilesByPath) -> bool:
    """Whether a copy is not what the last generation is: in content, modes, names or times."""
    if files != before:
        return True
    return any(
        os.lstat(f"{staging}/tree/{path}").st_ino != os.lstat(f"{basis.tree}/{path}").st_ino
        for path, entry in files.items()
        if entry["type"] == "file"
    )


def settle_racy(staging: str, basis: Generation, before: FilesByPath) -> None:
    """Copy what changed without a new time since the last generation was taken.

    A write through a memory map touches the time of a file only at the first write after its
    page was flushed. So a file with a time not older than the last copy may differ from it under
    the same time and size; only its content tells.
    """
    sealed = basis.seal()
    if sealed.get("source") != "live":
        return
    for path, entry in before.items():
        if entry["type"] != "file":
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            now, copied = os.lstat(f"{LIVE}/tree/{path}"), os.lstat(f"{staging}/tree/{path}")
            linked = copied.st_ino == os.lstat(f"{basis.tree}/{path}").st_ino
            recent = now.st_mtime_ns >= int(sealed["taken_ns"]) - 10**9
            if linked and recent and stat.S_ISREG(now.st_mode):
                recopy(f"{LIVE}/tree/{path}", f"{staging}/tree/{path}", entry["sha256"])


def recopy(source: str, target: str, sha256: str) -> None:
    """Replace ``target``, never writing into it, if the content of ``source`` is another."""
    if hash_file(source) == sha256:
        return
    fresh = f"{target}.dumont-{os.getpid()}"
    shutil.copy2(source, fresh, follow_symlinks=False)
    os.rename(fresh, target)


def shrank(before: FilesByPath, now: FilesByPath) -> Answer | None:
    """Why a copy must not be sealed without a person's word: its source lost most of its data."""
    files_before, bytes_before = count(before)
    files_now, bytes_now = count(now)
    if files_now >= SHRINK_RATIO * files_before and bytes_now >= SHRINK_RATIO * bytes_before:
        return None
    return {
        "code": "source-shrank",
        "reason": f"the source shrank from {files_before} files ({bytes_before} bytes) "
        f"to {files_now} files ({bytes_now} bytes)",
        "files_before": files_before,
        "files_now": files_now,
        "bytes_before": bytes_before,
        "bytes_now": bytes_now,
    }


def seal(
    epoch: int, staging: str, before: FilesByPath, files: FilesByPath, facts: dict[str, Any]
) -> tuple[Generation, dict[str, Any]]:
    """Make a finished copy a generation: flushed first, then moved under the lock."""
    last = newest_generation()
    sequence = last.sequence + 1 if last and last.epoch == epoch else 1
    generation = Generation(f"e{epoch:06d}-{sequence:08d}", epoch, sequence)
    file_count, byte_count = count(files)
    sealed = {
        **facts,
        "generation": generation.id,
        "epoch": epoch,
        "sequence": sequence,
        "files": file_count,
        "bytes": byte_count,
        "bytes_changed": bytes_changed(before, files),
        "manifest_sha256": manifest_sha256(files),
        "sealed_at": iso(time.time_ns()),
    }
    durable_json(f"{staging}/manifest.json", {"files": files})
    durable_json(f"{staging}/seal.json", sealed)
    flush_to_disk(staging)
    with store_lock():
        demand_epoch(epoch)
        os.rename(staging, f"{GENERATIONS}/{generation.id}")
        fsync_directory(GENERATIONS)
    return generation, sealed


def tidy(epoch: int) -> None:
    """Delete what no later attempt can use."""
    for name in os.listdir(STAGING):
        discard(f"{STAGING}/{name}")
    if any(generation.epoch == epoch for generation in generations()):
        shutil.rmtree(RETIRED, ignore_errors=True)
    prune_generations()
    empty_trash()


# --- the copy that people get ----------------------------------------------------------------


def prepare_ready(epoch: int, generation: Generation, deadline: float) -> bool:
    """Keep the private copy of the newest generation, so that a promotion is only a rename.

    While people work on the standby there is none to keep. A disk that is too small for it delays
    the next promotion; it does not undo the seal: then this is False.
    """
    if os.path.lexists(f"{LIVE}/tree"):
        return False
    try:
        refresh_ready(epoch, generation, deadline)
    except Refusal as refusal:
        if refusal.code in {"disk-full", "timeout", "rsync-failed"}:
            return False
        raise
    return True


def refresh_ready(epoch: int, generation: Generation, deadline: float) -> None:
    """Make ready/ the content of ``generation``: copied, never linked."""
    if read_json(f"{READY}/state.json") == {"generation": generation.id}:
        return
    os.makedirs(f"{READY}/tree", 0o700, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{READY}/state.json")
    argv = ["rsync", *RSYNC_COMMON, "--delete", f"--chown={PEOPLE}:{PEOPLE}"]
    argv += [f"{generation.tree}/", f"{READY}/tree/"]
    finished = run_job(argv, epoch=epoch, deadline=deadline)
    if finished.code != 0:
        raise sort_failure("source", finished)
    flush_to_disk(READY)
    durable_json(f"{READY}/state.json", {"generation": generation.id})


def let_people_at(tree: str) -> None:
    """Give the top of the promoted tree to the people's account."""
    account = pwd.getpwnam(PEOPLE)
    os.chown(tree, account.pw_uid, account.pw_gid)
    os.chmod(tree, 0o755)  # noqa: S103 - the directories above let nobody else in


def open_account() -> None:
    """Let people log in."""
    with open(PEOPLE_KEYS, encoding="utf-8") as file:
        durable_write(f"{ETC}/keys/{PEOPLE}", file.read(), 0o644)


def close_account() -> None:
    """No new login of people; see ``end_people`` for those who are here."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{ETC}/keys/{PEOPLE}")
        fsync_directory(f"{ETC}/keys")


def people_processes(uid: int) -> list[int]:
    found = []
    for process in processes():
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status") as file:
            uids = next(line for line in file if line.startswith("Uid:")).split()[1:]
            if str(uid) in uids:
                found.append(process.pid)
    return found


def end_people(seconds: float) -> int:
    """End every process of the people's account, asked first, and wait until none is left."""
    uid = pwd.getpwnam(PEOPLE).pw_uid
    if uid == 0:
        raise Refusal("unsuitable", "people are root on this host: nothing can be taken from them")
    begun = time.monotonic()
    ended: set[int] = set()
    while alive := people_processes(uid):
        waited = time.monotonic() - begun
        if waited > seconds:
            raise Refusal("still-writing", f"{len(alive)} processes of people do not end")
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if pid in ended and waited > 0.3 else signal.SIGTERM)
            ended.add(pid)
        time.sleep(0.01)
    return len(ended)


def writers_under(tree: str) -> list[int]:
    """Processes that hold a file below ``tree`` open for writing, or mapped so."""
    top = os.path.realpath(tree)
    return [
        process.pid
        for process in processes()
        if process.pid != os.getpid() and (writes(process.pid, top) or maps(process.pid, top))
    ]


def is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def writes(pid: int, top: str) -> bool:
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for fd in descriptors:
        with contextlib.suppress(OSError):
            if not is_below(os.readlink(f"/proc/{pid}/fd/{fd}"), top):
                continue
            with open(f"/proc/{pid}/fdinfo/{fd}") as file:
                flags = next(line for line in file if line.startswith("flags:"))
            if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                return True
    return False


def maps(pid: int, top: str) -> bool:
    try:
        with open(f"/proc/{pid}/maps", errors="replace") as file:
            lines = [line.split(None, 5) for line in file]
    except OSError:
        return False
    return any(len(f) == 6 and f[1][1:4:2] == "ws" and is_below(f[5].strip(), top) for f in lines)


# --- verbs of the standby --------------------------------------------------------------------


class Host(NamedTuple):
    """Who this host is, as recovery wrote it."""

    workspace: str
    role: str
    machine: str
    path: str
    adopted: bool
    user_ca: str


def read_host() -> Host:
    """Raises Refusal ``not-installed``."""
    told = read_json(HOST)
    if not isinstance(told, dict):
        raise Refusal("not-installed", f"{HOST} is missing", "prepare this host again")
    return Host(*(told[field] for field in Host._fields))


class Session(NamedTuple):
    """One request: what the key line says of it, and the host."""

    role: str
    epoch: int
    host: Host


def look(session: Session, _payload: Answer) -> Answer:
    """The heartbeat: who is there, and how it is."""
    host = session.host
    on_standby = host.role == "standby"
    newest = newest_generation() if on_standby else None
    disk = STORE if on_standby or not os.path.isdir(host.path) else host.path
    return {
        "machine": host.machine,
        "role": host.role,
        "workspace": host.workspace,
        # A GPU is not fenced by its epoch file; that it took this login is its answer.
        "epoch": read_epoch() if on_standby else session.epoch,
        "time": iso(time.time_ns()),
        "load": os.getloadavg()[0],
        "free_bytes": shutil.disk_usage(disk).free,
        "path_present": os.path.isdir(host.path),
        "gpu": look_at_gpu() if host.role == "gpu" else None,
        "generation": newest.id if newest else None,
    }


def look_at_gpu() -> Answer | None:
    """The first card, None where there is none or it does not answer."""
    asked = "name,utilization.gpu,memory.used,memory.total"
    argv = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(argv, capture_output=True, timeout=2, check=True, text=True)
        name, busy, used, total = (
            word.strip() for word in answer.stdout.splitlines()[0].split(",")
        )
        return {
            "name": name,
            "utilization_percent": float(busy),
            "memory_used_mib": float(used),
            "memory_total_mib": float(total),
        }
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def keypair(session: Session, _payload: Answer) -> Answer:
    """The key of this epoch, made here on first asking; its private half never leaves."""
    key = key_of(session.epoch)
    with store_lock():
        demand_epoch(session.epoch)
        if not os.path.exists(f"{key}.pub"):
            shutil.rmtree(os.path.dirname(key), ignore_errors=True)
            os.makedirs(os.path.dirname(key), 0o700)
            make_key(key, f"{session.host.workspace}-e{session.epoch}")
        with open(f"{key}.pub", encoding="ascii") as file:
            return {"public_key": file.read().strip()}


def make_key(path: str, comment: str) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path]
    made = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if made.returncode != 0:
        raise Refusal("unsuitable", f"ssh-keygen failed: {one_line(made.stderr)}")


def pull(session: Session, payload: Answer) -> Answer:
    """Copy the GPU's tree and seal what changed."""
    with reach(session, payload["source"], payload) as peer:
        arguments = [f"--rsh={peer.rsync_shell}", f"{peer.rsync_name}:/"]
        return copy(
            session,
            Source("gpu", arguments, still=False),
            timeout=float(payload["timeout"]),
            accept_shrink=bool(payload.get("accept_shrink")),
        )


def seal_live(session: Session, payload: Answer) -> Answer:
    """Seal the promoted tree as it is now."""
    if not os.path.isdir(f"{LIVE}/tree"):
        raise Refusal("source-missing", "the standby does not serve: there is nothing to seal")
    still = os.path.exists(f"{LIVE}/frozen.json")
    if not still:
        flush_to_disk(LIVE)  # so that later writes through memory maps get a new time
    return copy(
        session,
        Source("live", [f"{LIVE}/tree/"], still=still),
        timeout=float(payload.get("timeout", 300)),
        accept_shrink=bool(payload.get("accept_shrink")),
    )


def list_generations(_session: Session, _payload: Answer) -> Answer:
    return {"generations": [generation.seal() for generation in generations()]}


def push(session: Session, payload: Answer) -> Answer:
    """Send a generation to the candidate and compare what arrived by hash; if final, place it."""
    begun = time.monotonic()
    attempt, final = int(payload["attempt"]), bool(payload.get("final"))
    with lane("push"), reach(session, payload["target"], payload) as peer:
        generation = find_generation(payload.get("generation"))
        with in_use(generation):
            sealed = generation.seal()
            bytes_total = int(sealed["bytes"])
            at_least = bytes_total / BYTES_PER_SECOND_MIN
            deadline = begun + max(float(payload["timeout"]), at_least)
            here = Restore(session, peer, attempt, deadline)
            here.ask("restore-begin", {"bytes": bytes_total})
            bytes_copied = here.send(generation, bytes_total)
            here.verify(generation, sealed)
            if final:
                here.ask("place", {})
    return {
        "generation": generation.id,
        "files": sealed["files"],
        "bytes": bytes_total,
        "bytes_copied": bytes_copied,
        "manifest_sha256": sealed["manifest_sha256"],
        "seconds": round(time.monotonic() - begun, 3),
    }


class Restore(NamedTuple):
    """One pass to one candidate."""

    session: Session
    peer: Peer
    attempt: int
    deadline: float

    def run(self, argv: list[str], request: bytes = b"", progress: Progress | None = None) -> bytes:
        """Run ssh or rsync; a candidate that does not answer is asked three times."""
        for last in (False, False, True):
            finished = run_job(
                argv,
                epoch=self.session.epoch,
                deadline=self.deadline,
                request=request,
                on_output=progress,
            )
            if finished.code == 0:
                break
            refusal = sort_failure("candidate", finished)
            if last or refusal.code != "candidate-unreachable":
                code = "candidate-lost" if refusal.code == "candidate-unreachable" else refusal.code
                code = "candidate-full" if code == "disk-full" else code
                raise Refusal(code, refusal.reason, refusal.hint)
            time.sleep(0.5)
        return finished.out

    def ask(self, verb: str, request: Answer) -> Answer:
        """Ask the gate of the candidate."""
        login = [*self.peer.ssh, f"{self.peer.user}@{self.peer.address}", f"dumont {verb}"]
        body = json.dumps({"attempt": self.attempt, **request}).encode() + b"\n"
        lines = self.run(login, body).splitlines()
        try:
            answer = json.loads(lines[-1])
        except (IndexError, ValueError):
            raise Refusal("candidate-lost", f"the candidate gave no answer to {verb}") from None
        if "ok" not in answer:
            error = answer.get("error", {})
            told = one_line(f"{error.get('code')}: {error.get('reason')}".encode())
            code = "candidate-full" if error.get("code") == "disk-full" else "candidate-refused"
            raise Refusal(code, f"the candidate refused {verb}: {told}")
        ok: Answer = answer["ok"]
        return ok

    def send(self, generation: Generation, bytes_total: int) -> int:
        """Bring the candidate's staging to a generation; how many bytes that took on the wire."""
        argv = ["rsync", *RSYNC_COMMON, "--delete", "--stats", "--info=progress2"]
        argv += ["--no-inc-recursive", "--no-human-readable", f"--rsh={self.peer.rsync_shell}"]
        argv += [f"{generation.tree}/", f"{self.peer.rsync_name}:/a{self.attempt}"]
        progress = Progress(bytes_total)
        output = self.run(argv, progress=progress)
        say("progress", {"bytes_done": bytes_total, "bytes_total": bytes_total})
        return statistic(output, b"Total bytes sent")

    def verify(self, generation: Generation, sealed: dict[str, Any]) -> None:
        """Raises Refusal ``verify-failed`` unless what arrived is the generation, by hash."""
        if self.ask("manifest", {})["manifest_sha256"] == sealed["manifest_sha256"]:
            return
        there, here = self.ask("manifest", {"full": True}).get("files", {}), generation.files()
        wrong = sorted(p for p in {*there, *here} if there.get(p) != here.get(p))
        named = ", ".join(repr(path) for path in wrong[:3])
        raise Refusal(
            "verify-failed", f"{len(wrong)} files on the candidate are not as sealed: {named}"
        )


def promote(session: Session, payload: Answer) -> Answer:
    """Raise the epoch; then put the newest generation in people's hands, or take it from them.

    Nothing of a lower epoch lives when this answers. May be repeated: the same epoch and the same
    wish change nothing.
    """
    epoch, serve = int(payload["epoch"]), bool(payload.get("serve"))
    if epoch != session.epoch:
        raise Refusal("bad-request", f"this key promotes to epoch {session.epoch}, not to {epoch}")
    with store_lock():
        if (current := read_epoch()) > epoch:
            raise stale(epoch, current)
        raise_epoch(epoch, session.host)
        if serve:
            start_serving(epoch, session.host)
        else:
            stop_serving(epoch, session.host)
        newest = newest_generation()
    sealed = newest.seal() if newest else {}
    return {
        "epoch": epoch,
        "serve": serve,
        "generation": newest.id if newest else None,
        "files": sealed.get("files", 0),
        "bytes": sealed.get("bytes", 0),
        "sealed_at": sealed.get("sealed_at"),
        "taken_at": sealed.get("taken_at"),
    }


def raise_epoch(epoch: int, host: Host) -> None:
    """Shut everything of lower epochs out, then end what is left of them; call it locked."""
    durable_write(EPOCH, f"{epoch}\n", 0o644)
    end_jobs_below(epoch)
    for name in os.listdir(KEYS):
        if name != f"e{epoch}":
            shutil.rmtree(f"{KEYS}/{name}", ignore_errors=True)
    write_gate_lines(host, epoch)


def start_serving(epoch: int, host: Host) -> None:
    """Make the newest generation the promoted tree, unless people already work on one."""
    serving = read_json(f"{LIVE}/state.json") or {}
    if os.path.lexists(f"{LIVE}/tree"):
        frozen = os.path.exists(f"{LIVE}/frozen.json")
        if frozen and serving.get("epoch", -1) >= epoch:
            return  # asked again while it is frozen for the way back
        if frozen:
            os.unlink(f"{LIVE}/frozen.json")
        durable_json(f"{LIVE}/state.json", {**serving, "epoch": epoch})
    else:
        newest = newest_generation()
        if newest is None and epoch != 0:
            raise Refusal("no-generation", "there is no generation to serve from")
        if newest:
            refresh_ready(epoch, newest, time.monotonic() + 3600)
        os.makedirs(f"{READY}/tree", 0o700, exist_ok=True)
        os.makedirs(LIVE, 0o711, exist_ok=True)
        state = {"epoch": epoch, "generation": newest.id if newest else None}
        durable_json(f"{LIVE}/state.json", state)
        os.rename(f"{READY}/tree", f"{LIVE}/tree")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{READY}/state.json")
    let_people_at(f"{LIVE}/tree")
    show_at(host.path)
    open_account()


def show_at(path: str) -> None:
    """Make the workspace's path lead to the promoted tree."""
    target = f"{LIVE}/tree"
    if os.path.islink(path) and os.readlink(path) == target:
        return
    if os.path.isdir(path) and not os.path.islink(path):
        try:
            os.rmdir(path)
        except OSError:
            os.rename(path, f"{path}.before-dumont-{time.time_ns()}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = f"{path}.dumont-new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    os.symlink(target, fresh)
    os.rename(fresh, path)


def stop_serving(epoch: int, host: Host) -> None:
    """Take the promoted tree from people.

    Frozen, it equals the last generation: it becomes the copy for the next promotion. Otherwise
    somebody may have written after the last seal: it is kept aside until this epoch has a
    generation of its own.
    """
    close_account()
    end_people(KILL_SECONDS)
    if os.path.lexists(f"{LIVE}/tree"):
        if os.path.exists(f"{LIVE}/frozen.json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{READY}/state.json")
            discard(f"{READY}/tree")
            os.rename(f"{LIVE}/tree", f"{READY}/tree")
        else:
            os.makedirs(RETIRED, 0o700, exist_ok=True)
            os.rename(f"{LIVE}/tree", f"{RETIRED}/e{epoch:06d}-{time.time_ns()}")
    shutil.rmtree(LIVE, ignore_errors=True)
    if os.path.islink(host.path) and os.readlink(host.path) == f"{LIVE}/tree":
        os.unlink(host.path)


def freeze(session: Session, payload: Answer) -> Answer:
    """See to it that nothing can write the promoted tree any more."""
    timeout = float(payload.get("timeout", 60))
    begun = time.monotonic()
    with store_lock():
        demand_epoch(session.epoch)
        if not os.path.isdir(f"{LIVE}/tree"):
            raise Refusal("source-missing", "the standby does not serve: nothing can be frozen")
        close_account()
    ended = end_people(timeout)
    os.chown(f"{LIVE}/tree", 0, 0)
    os.chmod(f"{LIVE}/tree", 0o700)
    ended += end_people(timeout)
    while writers := writers_under(f"{LIVE}/tree"):
        if time.monotonic() - begun > timeout:
            raise Refusal("still-writing", f"process {writers[0]} can still write the tree")
        time.sleep(0.05)
    with store_lock():
        demand_epoch(session.epoch)
        if not os.path.exists(f"{LIVE}/frozen.json"):
            durable_json(f"{LIVE}/frozen.json", {"frozen_at": iso(time.time_ns())})
        return {**read_json(f"{LIVE}/frozen.json"), "ended": ended}


def thaw(session: Session, _payload: Answer) -> Answer:
    """Let people in again."""
    with store_lock():
        demand_epoch(session.epoch)
        if not os.path.isdir(f"{LIVE}/tree"):
            raise Refusal("source-missing", "the standby does not serve: nothing can be thawed")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{LIVE}/frozen.json")
        let_people_at(f"{LIVE}/tree")
        open_account()
    return {"epoch": session.epoch}


# --- verbs of a GPU --------------------------------------------------------------------------


def attempt_directory(session: Session, attempt: int) -> str:
    """Where an attempt restores to, beside the workspace: never over other data."""
    return f"{session.host.path.rstrip('/')}.dumont/e{session.epoch}-a{attempt}"


def marker_of(session: Session, attempt: int) -> Answer:
    return {"workspace": session.host.workspace, "epoch": session.epoch, "attempt": attempt}


def begun_attempt(session: Session, payload: Answer) -> str:
    """The directory of an attempt that was begun here. Raises Refusal ``target-not-ours``."""
    attempt = int(payload["attempt"])
    directory = attempt_directory(session, attempt)
    if read_json(f"{directory}/marker.json") != marker_of(session, attempt):
        raise Refusal("target-not-ours", f"{directory} was not made by this attempt")
    return directory


def restore_begin(session: Session, payload: Answer) -> Answer:
    """Make the directory that an attempt restores to, or find it as this attempt left it."""
    attempt, path = int(payload["attempt"]), session.host.path
    directory = attempt_directory(session, attempt)
    if session.host.adopted:
        raise Refusal("target-not-ours", "this host brought its data: nothing is restored to it")
    if os.path.ismount(path):
        raise Refusal(
            "unsuitable", f"{path} is a mount of its own: nothing can be put in its place"
        )
    if read_json(f"{directory}/marker.json") != marker_of(session, attempt):
        if os.path.isdir(directory) and os.listdir(directory):
            raise Refusal("target-not-ours", f"{directory} holds something else")
        os.makedirs(directory, 0o755, exist_ok=True)
        free = shutil.disk_usage(directory).free
        if free < int(payload.get("bytes", 0)):
            raise Refusal("disk-full", f"{free} bytes are free, {payload['bytes']} are needed")
        durable_json(f"{directory}/marker.json", marker_of(session, attempt))
    if not os.path.lexists(f"{directory}/tree"):
        take_back(path, directory)
        os.makedirs(f"{directory}/tree", 0o755, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/placed.json")
    return {"directory": directory}


def take_back(path: str, directory: str) -> None:
    """Undo ``place`` for another pass: the way back was put off, or its last answer was lost.

    Nobody works here yet: before the endpoint leads here the standby's epoch is raised, and with
    that no push of this epoch is left.
    """
    if os.path.exists(f"{directory}/placed.json") and os.path.lexists(path):
        os.rename(path, f"{directory}/tree")


def manifest(session: Session, payload: Answer) -> Answer:
    """What arrived, by hash. Only what changed since it was last asked is read again."""
    directory = begun_attempt(session, payload)
    before = read_json(f"{directory}/hashes.json") or {}
    now: dict[str, list[Any]] = {}

    def known(relative: str, info: os.stat_result) -> str | None:
        mark = [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
        now[relative] = mark
        cached = before.get(relative)
        return str(cached[4]) if cached and cached[:4] == mark else None

    files = take_manifest(f"{directory}/tree", known)
    hashes = {path: [*mark, files[path]["sha256"]] for path, mark in now.items()}
    durable_json(f"{directory}/hashes.json", hashes)
    file_count, byte_count = count(files)
    answer: Answer = {
        "manifest_sha256": manifest_sha256(files),
        "files": file_count,
        "bytes": byte_count,
    }
    if payload.get("full"):
        answer["files"] = files
    return answer


def place(session: Session, payload: Answer) -> Answer:
    """Put the restored tree at the workspace's path; what was there is renamed aside."""
    directory, path = begun_attempt(session, payload), session.host.path
    if not os.path.lexists(f"{directory}/tree") and os.path.exists(f"{directory}/placed.json"):
        return {"path": path}
    if os.path.lexists(path):
        try:
            os.rmdir(path)
        except OSError:
            os.rename(path, f"{directory}/before-{time.time_ns()}")
    os.chmod(f"{directory}/tree", 0o755)  # noqa: S103 - as any top of a workspace
    durable_json(f"{directory}/placed.json", {})
    os.rename(f"{directory}/tree", path)
    fsync_directory(os.path.dirname(path))
    return {"path": path}


_SHORT = re.compile(r"-[lHtprvn]+(e\.[A-Za-z]*)?")
_LONG = ("--numeric-ids", "--stats", "--no-inc-recursive", "--delete", "--delete-during", "-@-1")


def serve_rsync(session: Session, command: list[str]) -> NoReturn:
    """Become the far end of our own rsync, in one direction and in one directory only.

    Only options that our side uses pass; among others that leaves out those which name files,
    follow links, or take more arguments from the network.
    """
    sending = "--sender" in command
    if command[:2] != ["rsync", "--server"] or command[-2:-1] != ["."]:
        raise Refusal("bad-request", "only rsync as our side runs it is served here")
    options = [word for word in command[2:-2] if word != "--sender"]
    for option in options:
        if not _SHORT.fullmatch(option) and option not in _LONG:
            raise Refusal("bad-request", f"rsync option {option[:60]!r} is not for this key")
    if sending != (session.role == "read"):
        raise Refusal("bad-request", f"a {session.role} key does not work in this direction")
    with store_lock():
        directory = readable(session) if sending else writable(session, command[-1])
    direction = ["--sender"] if sending else [f"--partial-dir={directory}/../partial"]
    os.chdir(directory)
    os.execvp("rsync", ["rsync", "--server", *direction, *options, ".", f"{directory}/"])  # noqa: S606


def readable(session: Session) -> str:
    """The tree to read. From the first read of an epoch on, nothing older writes here."""
    path = session.host.path
    current = read_epoch()
    if session.epoch < current:
        raise stale(session.epoch, current)
    if session.epoch > current:
        durable_write(EPOCH, f"{session.epoch}\n", 0o644)
    if not os.path.isdir(path):
        raise Refusal("source-missing", f"{path} is not there")
    return path


def writable(session: Session, asked: str) -> str:
    """The staging tree of the attempt that the client named as ``/aN``."""
    demand_epoch(session.epoch)
    named = re.fullmatch(r"/?a(\d{1,9})/?", asked)
    if not named:
        raise Refusal("bad-request", f"{asked[:60]!r} names no attempt")
    directory = begun_attempt(session, {"attempt": named.group(1)})
    if not os.path.isdir(f"{directory}/tree"):
        raise Refusal("target-not-ours", "this attempt is in place: nothing is written there")
    return f"{directory}/tree"


# --- install ---------------------------------------------------------------------------------


def gate_line(host: Host, role: str, epoch: int) -> str:
    """One line of the root account's keys: one role of one epoch, through this gate."""
    command = f"{sys.executable or '/usr/bin/env python3'} -I -S {PROGRAM}"
    command += f" --workspace {host.workspace} --role {role} --epoch {epoch}"
    principal = f"{host.workspace}-e{epoch}-{role}"
    return f'cert-authority,principals="{principal}",restrict,command="{command}" {host.user_ca}\n'


def write_gate_lines(host: Host, epoch: int) -> None:
    """Open this host to the credentials of an epoch, and of the one that may follow."""
    if host.role == "standby":
        roles = {"probe": (epoch - 1, epoch, epoch + 1), "write": (epoch,)}
        roles["promote"] = (epoch, epoch + 1)
    elif host.adopted:
        roles = {"probe": (epoch, epoch + 1), "read": (epoch,)}
    else:
        roles = {"probe": (epoch, epoch + 1), "write": (epoch,), "read": (epoch + 1,)}
    lines = [gate_line(host, role, e) for role, epochs in roles.items() for e in epochs if e >= 0]
    durable_write(GATE_LINES, "".join(lines))


def install(payload: Answer) -> Answer:
    """Make this host one of a workspace; may be repeated. Run as root, not through sshd's keys.

    Without a certificate it only makes the host key and says what it is; with it, everything.
    """
    host = Host(
        workspace=str(payload["workspace"]),
        role=str(payload["role"]),
        machine=str(payload["machine"]),
        path=os.path.normpath(str(payload["path"])),
        adopted=bool(payload.get("adopted")),
        user_ca=single(payload["user_ca"]),
    )
    versions = demand_tools(host)
    os.makedirs(f"{ETC}/keys", 0o755, exist_ok=True)
    if not os.path.exists(f"{HOST_KEY}.pub"):
        make_key(HOST_KEY, f"{host.workspace}.dumont")
    with open(f"{HOST_KEY}.pub", encoding="ascii") as file:
        answer = {"host_public_key": file.read().strip(), "account": PEOPLE, **versions}
    if payload.get("host_certificate"):
        furnish(host, int(payload["epoch"]), payload["people_keys"])
        admit(host, single(payload["host_certificate"]))
    return answer


def demand_tools(host: Host) -> Answer:
    """What the data plane needs here. Raises Refusal ``unsuitable``."""
    if os.geteuid() != 0:
        raise Refusal("unsuitable", "this must run as root", "log in as root or with sudo")
    for tool in ("rsync", "ssh", "ssh-keygen", "useradd"):
        if shutil.which(tool) is None:
            raise Refusal("unsuitable", f"{tool} is not installed", f"install {tool} on this host")
    told = subprocess.run(["rsync", "--version"], capture_output=True, check=False).stdout
    found = re.search(rb"version v?(\d+)\.(\d+)\.(\d+)", told)
    version = tuple(int(part) for part in found.groups()) if found else (0, 0, 0)
    text = ".".join(str(part) for part in version)
    if host.role == "standby" and version < RSYNC_OLDEST:
        oldest = ".".join(str(part) for part in RSYNC_OLDEST)
        raise Refusal(
            "unsuitable",
            f"rsync {text} is too old to receive from a rented host",
            f"install rsync {oldest} or newer on the standby",
        )
    return {"rsync": text, "python": ".".join(str(part) for part in sys.version_info[:3])}


def furnish(host: Host, epoch: int, people_keys: list[str]) -> None:
    """Directories, account, keys and the gate itself."""
    for path, mode in (
        (STORE, 0o711),
        (JOBS, 0o700),
        (KEYS, 0o700),
        (GENERATIONS, 0o700),
        (STAGING, 0o700),
        (READY, 0o700),
        (os.path.dirname(PROGRAM), 0o755),
    ):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
    make_account(host)
    if os.path.realpath(__file__) != PROGRAM:
        with open(__file__, encoding="utf-8") as file:
            durable_write(PROGRAM, file.read(), 0o755)
    durable_write(HOST, json.dumps(host._asdict()) + "\n", 0o644)
    durable_write(PEOPLE_KEYS, "".join(f"{single(key)}\n" for key in people_keys), 0o644)
    with store_lock():
        current = read_epoch() if os.path.exists(EPOCH) else -1
        if current > epoch:
            raise stale(epoch, current)
        raise_epoch(epoch, host)
        serves = os.path.isdir(f"{LIVE}/tree") and not os.path.exists(f"{LIVE}/frozen.json")
        if host.role == "gpu" or serves:
            open_account()


def make_account(host: Host) -> None:
    """The account of people; on a GPU it is another name of root, since the GPU is theirs."""
    try:
        uid = pwd.getpwnam(PEOPLE).pw_uid
    except KeyError:
        argv = ["useradd", "--password", "*", "--shell", "/bin/bash"]
        if host.role == "gpu":
            argv += ["-o", "-u", "0", "-g", "0", "-M", "-d", "/root"]
        else:
            argv += ["-U", "-m", "-d", f"/home/{PEOPLE}"]
        made = subprocess.run([*argv, PEOPLE], capture_output=True, check=False)
        if made.returncode != 0:
            raise Refusal(
                "unsuitable", f"cannot make the account {PEOPLE}: {one_line(made.stderr)}"
            ) from None
        return
    if (uid == 0) != (host.role == "gpu"):
        raise Refusal(
            "unsuitable",
            f"an account {PEOPLE} with uid {uid} is there, which does not fit a {host.role}",
            "rename or remove that account",
        )


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
    if host.role == "standby":
        # People must not be able to open a second way in that a freeze would not close.
        lines += [f"Match User {PEOPLE}", f"    AuthorizedKeysFile {ETC}/keys/%u"]
    os.makedirs(os.path.dirname(SSHD_SNIPPET), exist_ok=True)
    durable_write(SSHD_SNIPPET, "\n".join(lines) + "\n", 0o644)
    include_snippet()
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    tested = subprocess.run([sshd, "-t"], capture_output=True, check=False)
    if tested.returncode != 0:
        os.unlink(SSHD_SNIPPET)
        raise Refusal("unsuitable", f"sshd does not take our settings: {one_line(tested.stderr)}")
    if listener := sshd_listener():
        os.kill(listener, signal.SIGHUP)


def include_snippet() -> None:
    """Some images have an sshd_config that includes nothing; the first setting wins there."""
    with open(SSHD_CONFIG, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    if not re.search(r"^\s*Include\s+/etc/ssh/sshd_config\.d/", text, re.M | re.I):
        fresh = f"Include {SSHD_SNIPPET}\n{text}"
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


def command_of(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(")") + 2 :].split()[1])


# --- a session -------------------------------------------------------------------------------

VERBS: dict[tuple[str, str], dict[str, Callable[[Session, Answer], Answer]]] = {
    ("standby", "probe"): {"look": look},
    ("standby", "write"): {
        "look": look,
        "keypair": keypair,
        "pull": pull,
        "seal": seal_live,
        "push": push,
        "generations": list_generations,
    },
    ("standby", "promote"): {"look": look, "promote": promote, "freeze": freeze, "thaw": thaw},
    ("gpu", "probe"): {"look": look},
    ("gpu", "read"): {"look": look},
    ("gpu", "write"): {
        "look": look,
        "restore-begin": restore_begin,
        "manifest": manifest,
        "place": place,
    },
}


def read_request() -> Answer:
    """The one JSON object on standard input; nothing at all is an empty one."""
    line = sys.stdin.buffer.readline(REQUEST_BYTES_MAX)
    try:
        request = json.loads(line or b"{}")
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise Refusal("bad-request", "the request must be one line with one JSON object")
    return request


def serve(session: Session, command: list[str]) -> Answer:
    """Do what a session asks. Raises Refusal."""
    if len(command) != 2 or command[0] != "dumont":
        raise Refusal("bad-request", "ask as: dumont VERB")
    verb = VERBS.get((session.host.role, session.role), {}).get(command[1])
    if verb is None:
        raise Refusal(
            "unknown-verb",
            f"{command[1][:40]!r} is not for {session.role} on a {session.host.role}",
        )
    request = read_request()
    if session.role != "write":
        return verb(session, request)
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)  # refused when we lead a session, and so a group, already
    with store_lock():
        demand_epoch(session.epoch)
        register_job(session.epoch, os.getpid())
    try:
        return verb(session, request)
    finally:
        unregister_job(os.getpid())


def as_refusal(error: Exception) -> Refusal:
    """What a client is told of an error that nobody foresaw: never a traceback."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refusal("disk-full", f"the disk is full: {error.filename or ''}", "make room on it")
    if isinstance(error, (KeyError, TypeError, ValueError)):
        return Refusal("bad-request", f"{type(error).__name__}: {error}")
    return Refusal("internal", f"{type(error).__name__}: {error}")


def answer(work: Callable[[], Answer]) -> None:
    """Say what came of it as the last line."""
    try:
        try:
            say("ok", work())
        except ClientGoneError:
            raise
        except Exception as error:
            refusal = as_refusal(error)
            hint = refusal.hint
            say("error", {"code": refusal.code, "reason": refusal.reason, "hint": hint})
    except ClientGoneError:
        os._exit(1)  # nothing is left to say, and nothing to flush


def main() -> int:
    """Serve one session, or ``install``."""
    os.umask(0o022)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if sys.argv[1:] == ["install"]:
        answer(lambda: install(read_request()))
        return 0
    parser = argparse.ArgumentParser(description="the gate of dumont")
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--role", required=True)
    parser.add_argument("--epoch", required=True, type=int)
    line = parser.parse_args()
    try:
        command = shlex.split(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    except ValueError:
        command = []

    def session() -> Session:
        host = read_host()
        if host.workspace != line.workspace:
            raise Refusal("not-installed", f"this host is of workspace {host.workspace}")
        return Session(line.role, line.epoch, host)

    if command[:1] != ["rsync"]:
        answer(lambda: serve(session(), command))
        return 0
    try:
        serve_rsync(session(), command)
    except (Refusal, OSError) as error:
        refusal = as_refusal(error)
        sys.stderr.write(f"{REFUSAL_MARK}{refusal.code} {refusal.reason}\n")
        return 3


if __name__ == "__main__":
    sys.exit(main())
