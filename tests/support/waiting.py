"""Wait for what has to come. Only a fault reaches the end of a wait, so it is long: a machine that
runs many tests at once is slow.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 180.0


def eventually(look: Callable[[], T | None], said: Callable[[], object] | str = "") -> T:
    """What ``look`` answers once it is true; ``said`` is told when that never comes."""
    deadline = time.monotonic() + PATIENCE
    while not (seen := look()):
        if time.monotonic() >= deadline:
            told = said if isinstance(said, str) else said()
            raise AssertionError(f"not within {PATIENCE:.0f} s: {told or look}")
        time.sleep(0.02)
    return seen


async def until(condition: Callable[[], bool | Awaitable[bool]], said: str = "") -> None:
    """As ``eventually``, in a loop that goes on."""
    deadline = time.monotonic() + PATIENCE
    while not (met if isinstance(met := condition(), bool) else await met):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {said or condition}"
        await asyncio.sleep(0.02)
