"""Run a service's loops until SIGTERM, or until one of them dies."""

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path

from shared import failpoints as places


async def run_until_stopped(
    *loops: Coroutine[object, object, None], failpoints: Path | None = None
) -> None:
    """SIGTERM and SIGINT end it cleanly. A loop that raises ends the process: the supervisor
    starts it again, and the log says where it was. There is no other recovery path to test.

    ``failpoints`` is the directory of the places where a test stops this process, if any.
    """
    if failpoints is not None:
        places.arm_from(failpoints)
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        await stop.wait()
        for task in tasks:
            task.cancel()
