"""One session: which verbs its role opens on this host, and doing the one it asks for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from importlib import import_module

from .answers import Answer, read_request
from .epochs import demand_epoch, demand_not_over
from .host import Session
from .jobs import register_job, unregister_job
from .locks import store_lock
from .refusals import Refusal

Verb = Callable[[Session, Answer], Answer]

LOOK = "looking:look"
VERBS: dict[tuple[str, str], dict[str, str]] = {
    ("standby", "probe"): {"look": LOOK},
    ("standby", "write"): {
        "look": LOOK,
        "keypair": "keys:keypair",
        "pull": "copying:pull",
        "follow": "following:follow",
        "seal": "copying:seal_live",
        "push": "pushing:push",
        "generations": "generations:list_generations",
    },
    ("standby", "promote"): {
        "look": LOOK,
        "generations": "generations:list_generations",
        "promote": "promotion:promote",
        "freeze": "freezing:freeze",
        "thaw": "freezing:thaw",
    },
    ("gpu", "probe"): {"look": LOOK},
    ("gpu", "read"): {"look": LOOK, "watch": "watching:watch"},
    ("gpu", "write"): {
        "look": LOOK,
        "restore-begin": "restoring:restore_begin",
        "manifest": "restoring:manifest",
        "place": "restoring:place",
    },
}
"""By the role of the host and of the key, where each verb is: only the one asked for is loaded."""


def serve(session: Session, command: list[str]) -> Answer:
    """Do what a session asks. Raises Refusal."""
    if len(command) != 2 or command[0] != "dumont":
        raise Refusal("bad-request", "ask as: dumont VERB")
    verb = find_verb(session, command[1])
    request = read_request()
    if session.role not in {"write", "promote"}:
        return verb(session, request)
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)  # refused when we lead a session, and so a group, already
    with store_lock():
        if session.role == "write":
            demand_epoch(session.epoch)
        else:
            demand_not_over(session.epoch)
        register_job(session.epoch, os.getpid())
    try:
        return verb(session, request)
    finally:
        unregister_job(os.getpid())


def follow_up(epoch: int) -> None:
    """What a copy leaves to do when its client has the answer: reading again what is sealed."""
    from .scrubbing import scrub  # noqa: PLC0415 - other sessions start faster without it

    try:
        with store_lock():
            demand_epoch(epoch)
            register_job(epoch, os.getpid())
        scrub()
    except (Refusal, OSError):
        return  # nobody is there to be told: the next one finds what this one could not
    finally:
        unregister_job(os.getpid())


def find_verb(session: Session, name: str) -> Verb:
    """What a session may ask for under this name. Raises Refusal ``unknown-verb``."""
    place = VERBS.get((session.host.role, session.role), {}).get(name)
    if place is None:
        raise Refusal(
            "unknown-verb", f"{name[:40]!r} is not for {session.role} on a {session.host.role}"
        )
    module, function = place.split(":")
    verb: Verb = getattr(import_module(f".{module}", __package__), function)
    return verb
