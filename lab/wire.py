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

from lab.clock import CURRENT, Happening, Life, running

T = TypeVar("T")

WORLD = copy_context()
"""The context of what happens whoever lives."""


class Wire:
    """Latencies are drawn anew for each call, up to ``latency`` seconds each way."""

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
        draw = self._chance.random

        def arrive() -> None:
            answer: Happening
            try:
                result = effect()
                answer = partial(_settle, future, result)
            except Exception as error:  # an error is an answer like any other
                answer = partial(_fail, future, error)
            if lost is None:
                loop.arrange(draw() * self.latency, answer)
            else:
                loop.arrange(patience, partial(_fail, future, lost))

        loop.arrange(takes + draw() * self.latency, arrive)
        return await future

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
