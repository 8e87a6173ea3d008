"""A process ends when it is told to, and when one of its loops dies: nothing may keep it."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine

import pytest

from shared.runtime import run_until_stopped

pytestmark = pytest.mark.anyio

Loop = Callable[[], Coroutine[object, object, None]]


async def forever() -> None:
    await asyncio.sleep(1e6)


async def deaf() -> None:
    """Loses the first cancellation, as ``asyncio.wait_for`` of Python 3.11 now and then does."""
    try:
        await forever()
    except asyncio.CancelledError:
        await forever()


async def within_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(deaf())


async def tidy(told: list[str]) -> None:
    """Takes two seconds to end well."""
    try:
        await forever()
    finally:
        await asyncio.sleep(2)
        told.append("ended well")


async def told_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def dies() -> None:
    raise ValueError("a loop is broken")


async def test_what_needs_a_moment_to_end_well_gets_it() -> None:
    told: list[str] = []
    await run_until_stopped(tidy(told), told_to_end())
    assert told == ["ended well"]


@pytest.mark.parametrize("loop", [deaf, within_a_group])
async def test_a_loop_that_did_not_hear_its_end_is_told_again(
    loop: Loop,
) -> None:
    async with asyncio.timeout(9):
        await run_until_stopped(loop(), told_to_end())


@pytest.mark.parametrize("loop", [forever, deaf, within_a_group])
async def test_a_loop_that_dies_ends_all_others_and_says_why(
    loop: Loop,
) -> None:
    async with asyncio.timeout(9):
        with pytest.raises(ExceptionGroup) as raised:
            await run_until_stopped(loop(), dies())
    assert raised.group_contains(ValueError, match="a loop is broken")


async def test_a_loop_that_is_over_ends_nothing() -> None:
    told: list[str] = []

    async def over() -> None:
        told.append("over")

    async def later() -> None:
        await asyncio.sleep(5)
        told.append("later")
        await told_to_end()

    await run_until_stopped(over(), later(), forever())
    assert told == ["over", "later"]
