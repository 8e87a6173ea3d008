"""``freeze`` and ``thaw``: the promoted tree at rest, for the last copy before the way back."""

from __future__ import annotations

import contextlib
import os
import time

from .answers import Answer, client_is_gone, iso
from .epochs import demand_epoch
from .files import durable_json, read_json
from .host import Session
from .jobs import lane
from .layout import LIVE
from .locks import store_lock
from .people import close_account, end_people, let_people_at, open_account
from .refusals import ClientGoneError, Refusal
from .writers import writers_under


def freeze(session: Session, payload: Answer) -> Answer:
    """See to it that nothing can write the promoted tree any more."""
    deadline = time.monotonic() + float(payload.get("timeout", 60))
    with lane("freezing"):
        with store_lock():
            demand_epoch(session.epoch)
            if not os.path.isdir(f"{LIVE}/tree"):
                raise Refusal("source-missing", "the standby does not serve: nothing can be frozen")
            close_account()
        ended = end_people(deadline)
        os.chown(f"{LIVE}/tree", 0, 0)
        os.chmod(f"{LIVE}/tree", 0o700)
        ended += end_people(deadline)
        await_no_writer(deadline)
        with store_lock():
            demand_epoch(session.epoch)
            if not os.path.exists(f"{LIVE}/frozen.json"):
                durable_json(f"{LIVE}/frozen.json", {"frozen_at": iso(time.time_ns())})
            return {**read_json(f"{LIVE}/frozen.json"), "ended": ended}


def await_no_writer(deadline: float) -> None:
    """Raises Refusal ``still-writing``, and ClientGoneError: a thaw must not find us at it."""
    while writers := writers_under(f"{LIVE}/tree"):
        if time.monotonic() > deadline:
            raise Refusal("still-writing", f"process {writers[0]} can still write the tree")
        if client_is_gone():
            raise ClientGoneError
        time.sleep(0.05)


def thaw(session: Session, _payload: Answer) -> Answer:
    """Let people in again, once no freeze is under way any more."""
    with lane("freezing"), store_lock():
        demand_epoch(session.epoch)
        if not os.path.isdir(f"{LIVE}/tree"):
            raise Refusal("source-missing", "the standby does not serve: nothing can be thawed")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{LIVE}/frozen.json")
        let_people_at(f"{LIVE}/tree")
        open_account()
    return {"epoch": session.epoch}
