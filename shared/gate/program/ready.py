"""The private copy of the newest generation: people get it by a rename, so without waiting.

It is copied, never linked: a generation shares no file with anything that can be written.
"""

from __future__ import annotations

import contextlib
import os

from .files import durable_json, flush_to_disk, read_json
from .generations import Generation
from .layout import LIVE, PEOPLE, READY
from .programs import run_job
from .refusals import Refusal
from .retention import with_room
from .rsync import RSYNC_COMMON, sort_failure


def prepare_ready(epoch: int, generation: Generation, deadline: float) -> bool:
    """Keep the private copy of the newest generation, so that a promotion is only a rename.

    While people work on the standby there is none to keep. A disk that is too small for it even
    without older generations delays the next promotion; it does not undo the seal: then this is
    False.
    """
    if os.path.lexists(f"{LIVE}/tree"):
        return False
    try:
        with_room(lambda: refresh_ready(epoch, generation, deadline))
    except Refusal as refusal:
        if refusal.code in {"disk-full", "timeout", "certificate-over", "rsync-failed"}:
            return False
        raise
    return True


def holds_ready(generation: Generation) -> bool:
    """Whether ready/ is the whole copy of ``generation``."""
    return bool(read_json(f"{READY}/state.json") == {"generation": generation.id})


def refresh_ready(epoch: int, generation: Generation, deadline: float) -> None:
    """Make ready/ the content of ``generation``: copied, never linked."""
    if holds_ready(generation):
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
