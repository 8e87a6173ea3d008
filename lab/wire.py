"""Calls that leave a process.

What was sent arrives although the sender dies meanwhile, and an answer finds a dead sender or none
at all. So an effect belongs to the world, not to the process that asked for it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from random import Random
from typing import Any, TypeVar

from lab.clock import CURRENT, Happening, Life, VirtualTimeLoop, running

T = TypeVar("T")

WORLD = copy_context()
"""The context of what happens whoever lives."""


class Wire:
    """What is asked happens at once; its answer takes up to ``latency`` seconds."""

    def __init__(self, chance: Random, *, latency: float = 0.05) -> None:
        self._chance = chance
        self.latency = latency

    async def call(
        self,
        effect: Callable[[], T],
        *,
        takes: float = 0.0,
        lost: Exception | None = None,
        patience: float = 5.0,
    ) -> T:
        """``effect`` happens after ``takes`` seconds; its result is the answer.

        With ``lost`` it happens all the same, and ``patience`` seconds later that is raised.
        """
        process = CURRENT.get()
        loop = running()
        future: asyncio.Future[T] = loop.create_future()
        if process is not None and process.life is Life.DEAD:
            return await future  # what is unwound of a killed process reaches nobody
        if takes:
            loop.arrange(takes, partial(self._happens, loop, future, effect, lost, patience))
        else:
            self._happens(loop, future, effect, lost, patience)
        return await future

    def _happens(
        self,
        loop: VirtualTimeLoop,
        future: "asyncio.Future[T]",
        effect: Callable[[], T],
        lost: Exception | None,
        patience: float,
    ) -> None:
        answer: Happening
        try:
            answer = partial(_settle, future, effect())
        except Exception as error:  # an error is an answer like any other
            answer = partial(_fail, future, error)
        if lost is None:
            loop.arrange(self._chance.random() * self.latency, answer)
        else:
            loop.arrange(patience, partial(_fail, future, lost))

    async def nothing(self, error: Exception, *, after: float) -> None:
        """Nobody is there: raises ``error`` after so many seconds."""
        await asyncio.sleep(after)
        raise error


def _settle(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits for something")
