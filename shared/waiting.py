"""Wait for news or for an answer, and end when told to.

``asyncio.wait_for`` of Python 3.11 loses a cancellation that comes together with what it waits for
(python/cpython#86296): a loop that is to end then goes on, and its process neither works nor ends.
Hence ``News``, which is also what nearly every loop of the product waits in, and as light as it can
be; and ``apart`` for what a library waits for.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def apart(call: Coroutine[Any, Any, T]) -> T:
    """The outcome of ``call``, which may lose a cancellation; this one does not."""
    task = asyncio.ensure_future(call)
    task.add_done_callback(_heard)
    try:
        await asyncio.wait((task,))
        return task.result()
    finally:
        task.cancel()


def _heard(task: "asyncio.Task[Any]") -> None:
    """An error of somebody that nobody waits for any more is no news."""
    if not task.cancelled():
        task.exception()


class News:
    """Something that was heard, as an ``asyncio.Event`` that is waited for with a limit."""

    __slots__ = ("_here", "_waiters")

    def __init__(self) -> None:
        self._here = False
        self._waiters: list[asyncio.Future[bool]] = []

    def is_set(self) -> bool:
        return self._here

    def set(self) -> None:
        """Wake everyone who waits, and let nobody wait until it is cleared."""
        self._here = True
        for waiter in self._waiters:
            _answer(waiter, True)

    def clear(self) -> None:
        self._here = False

    async def comes(self, within: float | None) -> bool:
        """Whether it is set within so many seconds, None for ever. Does not clear it."""
        if self._here:
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters.append(waiter)
        late = None if within is None else loop.call_later(within, _answer, waiter, False)
        try:
            return await waiter
        finally:
            if late is not None:
                late.cancel()
            self._waiters.remove(waiter)


def _answer(waiter: asyncio.Future[bool], came: bool) -> None:
    if not waiter.done():
        waiter.set_result(came)
