"""``freeze`` and ``thaw``: the promoted tree at rest, for the last copy before the way back."""

from __future__ import annotations

import contextlib
import os
import time

from .answers import Answer, iso
from .epochs import demand_epoch
from .files import durable_json, read_json
from .host import Session
from .layout import LIVE
from .locks import store_lock
from .people import close_account, end_people, let_people_at, open_account
from .refusals import Refusal
from .writers import writers_under


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
