"""The product's services as processes of the lab: started, killed, stopped, started again."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

from lab.clock import CURRENT, KilledError, Life, Process, VirtualTimeLoop, running
from lab.wire import WORLD
from shared.eventlog.port import LeaseLostError, LogUnknownError

RESTART_SECONDS = 2.0
EXPECTED = (LeaseLostError, LogUnknownError, KilledError)
"""What a service may end with: it is started again, and the log says where it was."""

TASKS_MIN = 1000

Main = Callable[[], Coroutine[Any, Any, None]]
Ended = Callable[[str, BaseException], None]


class Supervised:
    """One service of the stack. ``on_end`` hears of an end that nobody foresaw."""

    def __init__(self, name: str, main: Main, *, on_end: Ended) -> None:
        self.name = name
        self.process = Process(name)
        self.lives = 0
        self._main = main
        self._on_end = on_end
        self._wanted = True

    def start(self) -> None:
        """Begin a life, unless one is under way."""
        if self.lives and self.process.life is not Life.DEAD:
            return
        self.process = process = Process(self.name)
        process.kill = self.kill
        self.lives += 1
        context = WORLD.copy()
        context.run(CURRENT.set, process)
        task = asyncio.get_running_loop().create_task(self._main(), context=context)
        task.add_done_callback(lambda done: self._ended(process, done), context=WORLD)

    def kill(self) -> None:
        """SIGKILL; somebody starts it again soon."""
        if self.process.life is not Life.DEAD:
            end(self.process)
            self._again()

    def pause(self) -> None:
        """SIGSTOP."""
        if self.process.life is Life.RUNNING:
            self.process.life = Life.STOPPED

    def resume(self) -> None:
        """SIGCONT."""
        if self.process.life is Life.STOPPED:
            self.process.life = Life.RUNNING
            running().release(self.process)

    def _ended(self, process: Process, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        for leaf in _leaves(error):
            if not isinstance(leaf, EXPECTED):
                self._on_end(self.name, leaf)
        end(process)
        if process is self.process:
            self._again()

    def _again(self) -> None:
        running().arrange(RESTART_SECONDS, self.start)


def end(process: Process) -> None:
    """Nothing of it ever runs again."""
    process.life = Life.DEAD
    process.held.clear()


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif error is not None:
        yield error


class Graveyard:
    """Every task that has not ended, kept until the run ends: what is collected is unwound."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._tasks: list[asyncio.Task[Any]] = []
        self._room = TASKS_MIN
        loop.set_task_factory(self._make)
        loop.set_exception_handler(lambda _, __: None)

    def _make(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=loop, **options)
        if len(self._tasks) >= self._room:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._room = max(TASKS_MIN, 2 * len(self._tasks))
        self._tasks.append(task)
        return task

    def close(self) -> None:
        """Unwind what is left, with nobody there to hear it."""
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coro = task.get_coro()
                for _ in range(5):
                    with suppress(BaseException):
                        coro.close()
                        break
        self._tasks.clear()
