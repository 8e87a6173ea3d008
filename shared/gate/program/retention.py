"""Which sealed copies are kept: the newest ones, and fewer and fewer of the older.

What was spoilt on the GPU is copied before anybody sees it, so only an older copy undoes it. But
history gives way where the next copy has no room.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

from .files import discard, empty_trash
from .generations import Generation, generations, is_damaged, is_usable
from .layout import GENERATIONS
from .locks import try_lock
from .refusals import Refusal, as_refusal

T = TypeVar("T")

NEWEST_KEPT = 20
STEPS = ((60, 10), (3600, 24), (86400, 7))
"""Seconds, and how often: the first copy of each of the last ten minutes, of each hour for a day,
and of each day for a week. By the clock, so that what is kept once is kept until its time is over.
"""


def kept(taken: Sequence[tuple[str, float]], now: float) -> set[str]:
    """The ids to keep of copies, given oldest first with the time they were taken, in seconds."""
    keep = {name for name, _ in taken[-NEWEST_KEPT:]}
    for seconds, times in STEPS:
        first: dict[int, str] = {}
        for name, at in taken:
            if now - at < seconds * times:
                first.setdefault(int(at // seconds), name)
        keep.update(first.values())
    return keep


def prune() -> None:
    """Let go of what need not be kept, never of the newest whole copy."""
    every, taken = generations(), []
    for generation in every:
        if not is_damaged(generation):
            with contextlib.suppress(Refusal):
                taken.append((generation.id, int(generation.seal()["taken_ns"]) / 1e9))
    keep = kept(taken, time.time())
    keep.update(generation.id for generation in every[-NEWEST_KEPT:])
    for generation in _expendable(every):
        if generation.id not in keep:
            let_go(generation)


def make_room() -> bool:
    """Let go of half of what there is besides the newest whole copy, the oldest first.

    What is being sent stays, and others go in its place. False when nothing could be let go of.
    """
    expendable = _expendable(generations())
    half = (len(expendable) + 1) // 2
    gone = list(islice(filter(let_go, expendable), half))
    empty_trash()
    return bool(gone)


def with_room(act: Callable[[], T]) -> T:
    """Do something that can be done again; while the disk is full for it, history gives way."""
    while True:
        try:
            return act()
        except (Refusal, OSError) as error:
            if as_refusal(error).code != "disk-full" or not make_room():
                raise


def let_go(generation: Generation) -> bool:
    """Take a copy away, unless it is being sent."""
    try:
        fd = os.open(f"{GENERATIONS}/{generation.id}/seal.json", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # without a seal it is no copy at all
        discard(f"{GENERATIONS}/{generation.id}")
        return True
    try:
        free = try_lock(fd, fcntl.LOCK_EX)
        if free:
            discard(f"{GENERATIONS}/{generation.id}")
        return free
    finally:
        os.close(fd)


def _expendable(every: Sequence[Generation]) -> list[Generation]:
    """All but the newest whole copy of ``every``; what is known to be damaged first."""
    whole = [generation for generation in every if is_usable(generation)]
    rest = [generation for generation in every if generation not in whole[-1:]]
    return sorted(rest, key=lambda generation: (not is_damaged(generation), generation))
