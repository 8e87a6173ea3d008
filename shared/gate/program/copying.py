"""``pull`` and ``seal``: copying a GPU's tree or the promoted one, and sealing what changed.

A generation is copied into a directory of its own, hashed, flushed to disk, and moved into place
only after the copying processes are seen to be gone.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import NamedTuple

from .answers import Answer, iso
from .changes import crossings, differs, known_from, settle_racy, shrank
from .files import discard, flush_to_disk
from .generations import newest_generation
from .host import Session
from .jobs import lane
from .layout import LIVE, STAGING
from .manifests import take_manifest
from .peers import reach
from .programs import run_job
from .ready import prepare_ready
from .refusals import Refusal
from .retention import with_room
from .rsync import RSYNC_COMMON, Progress, sort_failure, statistic
from .sealing import drop_attempts, seal, tidy
from .soundness import newest_sound


class Source(NamedTuple):
    """Where a copy is taken from: a GPU through ssh, or the promoted tree here."""

    kind: str
    arguments: list[str]
    still: bool
    """Nothing can write there now."""
    selection: list[str]
    """Options that say what of it is copied, and how fast."""


class Staged(NamedTuple):
    """A directory with a copy in it, and what the pass that made it did."""

    path: str
    moved: int
    vanished: bool


def pull(session: Session, payload: Answer) -> Answer:
    """Copy the GPU's tree and seal what changed."""
    with reach(session, payload["source"], payload) as peer:
        arguments = [f"--rsh={peer.rsync_shell}", f"{peer.rsync_name}:/"]
        return copy(
            session,
            Source("gpu", arguments, still=False, selection=selection(payload)),
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
        Source("live", [f"{LIVE}/tree/"], still=still, selection=selection(payload)),
        timeout=float(payload.get("timeout", 300)),
        accept_shrink=bool(payload.get("accept_shrink")),
    )


def selection(payload: Answer) -> list[str]:
    """rsync's options for what is not to be copied, and for how fast the rest may be."""
    options = [f"--exclude={pattern}" for pattern in payload.get("excludes", ())]
    if rate := int(payload.get("bytes_per_second", 0)):
        options.append(f"--bwlimit={max(1, rate // 1024)}")  # in units of 1,024 bytes
    return options


def copy(session: Session, source: Source, *, timeout: float, accept_shrink: bool) -> Answer:
    """Copy a source, and seal the copy as a new generation if anything changed."""
    begun = time.monotonic()
    deadline = begun + timeout
    with lane("copy"):
        sealed = with_room(lambda: copy_once(session, source, deadline, accept_shrink))
    sealed["seconds"] = round(time.monotonic() - begun, 3)
    return sealed


def copy_once(session: Session, source: Source, deadline: float, accept_shrink: bool) -> Answer:
    """Copy and seal. May be done again after whatever stopped it.

    Every pass goes into a fresh directory that takes what it already has from earlier ones by
    hard links. So nothing is ever changed in a file that a generation shares, and an attempt that
    failed is not lost: its files are linked, and a big one goes on from where it was cut.
    """
    taken = time.time_ns()
    basis, before = newest_sound()
    bases = [path for path in [leftover(session.epoch), basis.tree if basis else None] if path]
    staging = transfer(session, source, bases, deadline)
    files_changing = 0
    if not source.still and (staging.moved or staging.vanished):
        # What was moved may have been written meanwhile, and what was renamed may have been
        # missed under both names: look again.
        again = transfer(session, source, [f"{staging.path}/tree", *bases], deadline)
        discard(staging.path)
        staging, files_changing = again, again.moved
    if basis and source.kind == "live":
        settle_racy(staging.path, basis, before)
    files = take_manifest(f"{staging.path}/tree", known_from(basis, before))
    held = None if accept_shrink else shrank(before, files)
    newest = basis is not None and basis == newest_generation()
    changed = not basis or not newest or differs(basis, before, staging.path, files)
    facts = {"taken_at": iso(taken), "files_changing": files_changing}
    if held or not changed:
        assert basis
        discard(staging.path)
        sealed = {**basis.seal(), **facts, "bytes_changed": 0}
    else:
        facts["source"] = source.kind
        facts["workspace"] = session.host.workspace
        facts["taken_ns"] = taken
        basis, sealed = seal(session.epoch, staging.path, before, files, facts)
    ready = prepare_ready(session.epoch, basis, deadline)
    tidy(session.epoch)
    return {**sealed, "changed": changed and not held, "held": held, "ready": ready}


def transfer(session: Session, source: Source, bases: list[str], deadline: float) -> Staged:
    """Copy ``source`` into a fresh directory, linking what ``bases`` already hold."""
    staging = f"{STAGING}/e{session.epoch:06d}-{time.time_ns()}-{os.getpid()}"
    os.makedirs(f"{staging}/tree", 0o700)
    argv = ["rsync", *RSYNC_COMMON, "--stats", "--info=progress2", "--no-human-readable"]
    if source.kind == "gpu":
        argv.append(f"--partial-dir={STAGING}/partial")
    argv += [f"--link-dest={base}" for base in bases]
    argv += [*source.selection, *source.arguments, f"{staging}/tree/"]
    finished = run_job(argv, epoch=session.epoch, deadline=deadline, on_output=Progress(None))
    if finished.code not in (0, 24):
        failure = sort_failure("source", finished)
        if failure.code == "disk-full":
            drop_attempts()  # what they hold may be all that the next, smaller one lacks
        raise failure
    if crossed := crossings(f"{staging}/tree", bases):
        for path in crossed:
            shutil.rmtree(f"{staging}/tree/{path}", ignore_errors=True)
        return transfer(session, source, [f"{staging}/tree"], deadline)
    moved = statistic(finished.out, b"Number of regular files transferred")
    return Staged(staging, moved, finished.code == 24)


def leftover(epoch: int) -> str | None:
    """The tree of the last attempt of this epoch that did not end, to be linked from."""
    names = sorted(n for n in os.listdir(STAGING) if n.startswith(f"e{epoch:06d}-"))
    return f"{STAGING}/{names[-1]}/tree" if names else None
