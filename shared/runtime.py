"""Run a service's loops until SIGTERM, or until one of them dies."""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from shared import failpoints as places

PATIENCE_SECONDS = 3.0
"""What a loop has to end well in, once it was told to."""


async def run_until_stopped(
    *loops: Coroutine[object, object, None], failpoints: Path | None = None
) -> None:
    """SIGTERM and SIGINT end it cleanly. A loop that raises ends the process: the supervisor
    starts it again, and the log says where it was. There is no other recovery path to test.

    ``failpoints`` is the directory of the places where a test stops this process, if any.
    Raises an ExceptionGroup of what ended the loops that died.
    """
    if failpoints is not None:
        places.arm_from(failpoints)
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)

    def over(task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:
            stop.set()

    others = asyncio.all_tasks()
    tasks = [asyncio.create_task(loop) for loop in loops]
    for task in tasks:
        task.add_done_callback(over)
    try:
        await stop.wait()
    finally:
        await _end(tasks, others)
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if errors:
        raise BaseExceptionGroup("a loop of this service died", errors)


async def _end(tasks: Sequence[asyncio.Task[None]], others: set[asyncio.Task[Any]]) -> None:
    """Cancel until it is heard; ``others`` were there before them.

    A cancellation can get lost: ``asyncio.wait_for`` of Python 3.11 answers instead when the
    answer comes at the same moment (python/cpython#86296), and libraries use it. A process that
    went on with half of its loops would neither work nor be started again.
    """
    told = set[asyncio.Task[Any]](tasks)
    while told:
        for task in told:
            task.cancel()
        _, deaf = await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
        # The one that did not hear may be somebody whom they wait for.
        told = asyncio.all_tasks() - others if deaf else set()
