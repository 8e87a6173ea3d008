"""``promote``: raising the epoch, and giving the workspace to people or taking it from them."""

from __future__ import annotations

import contextlib
import os
import shutil
import time

from .answers import Answer
from .epochs import demand_not_over
from .files import discard, durable_json, durable_write, read_json
from .generations import Generation, go_back_to
from .host import Host, Session
from .jobs import KILL_SECONDS, end_jobs_below
from .key_lines import write_gate_lines
from .layout import EPOCH, KEYS, LIVE, READY, RETIRED
from .locks import store_lock
from .manifests import FilesByPath
from .people import close_account, end_people, let_people_at, open_account
from .ready import refresh_ready
from .refusals import Refusal
from .retention import with_room
from .soundness import damaged_generations, misfits, newest_sealed, promotable

COPY_SECONDS = 3600.0


def promote(session: Session, payload: Answer) -> Answer:
    """Raise the epoch; then put the newest generation in people's hands, or take it from them.

    With ``generation`` it is that one in place of the newest: the newer ones are passed over.

    Nothing of a lower epoch lives when this answers. May be repeated: the same epoch and the same
    wish change nothing.
    """
    epoch, serve = int(payload["epoch"]), bool(payload.get("serve"))
    if epoch != session.epoch:
        raise Refusal("bad-request", f"this key promotes to epoch {session.epoch}, not to {epoch}")
    with store_lock():
        demand_not_over(epoch)
        raise_epoch(epoch, session.host)
        if serve:
            if payload.get("generation") and not os.path.lexists(f"{LIVE}/tree"):
                go_back_to(str(payload["generation"]))
            start_serving(epoch, session.host)
        else:
            stop_serving(epoch, session.host)
        damaged = damaged_generations()
        newest, sealed = newest_sealed()
    return {
        "epoch": epoch,
        "serve": serve,
        "generation": newest.id if newest else None,
        "files": sealed.get("files", 0),
        "bytes": sealed.get("bytes", 0),
        "sealed_at": sealed.get("sealed_at"),
        "taken_at": sealed.get("taken_at"),
        "damaged": [name for name in damaged if not newest or name > newest.id],
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
        newest, files = promotable()
        if newest is None and epoch != 0:
            raise Refusal("no-generation", "there is no generation to serve from")
        if newest:
            make_ready(epoch, newest, files)
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


def make_ready(epoch: int, newest: Generation, files: FilesByPath) -> None:
    """Have the private copy of a generation, with every file in its size."""
    deadline = time.monotonic() + COPY_SECONDS
    with_room(lambda: refresh_ready(epoch, newest, deadline))
    if wrong := misfits(f"{READY}/tree", files):
        for path in wrong:
            discard(f"{READY}/tree/{path}")
        os.unlink(f"{READY}/state.json")
        with_room(lambda: refresh_ready(epoch, newest, deadline))


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
    end_people(time.monotonic() + KILL_SECONDS)
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
