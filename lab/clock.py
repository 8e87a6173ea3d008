"""Virtual time, and processes on it that can be killed and stopped like real ones.

The clock jumps to the next timer, so hours of waiting pass in milliseconds. Every callback belongs
to the process in whose context it was scheduled. A process that was killed is never called again:
no ``except``, no ``finally`` and no ``async with`` of it runs, as after SIGKILL. One that is
stopped (SIGSTOP) finds its callbacks and timers late when it goes on.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS_MAX = 200_000
"""So many callbacks without any time passing are a loop that never ends."""


class Life(Enum):
    RUNNING = auto()
    STOPPED = auto()
    DEAD = auto()


class Process:
    """One process on the loop; a process that is started again is another one."""

    __slots__ = ("held", "kill", "life", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.life = Life.RUNNING
        self.held: list[asyncio.Handle] = []
        self.kill: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} {self.life.name.lower()}>"


CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)
"""The process that is being run; None for the world around the processes."""


class KilledError(BaseException):
    """Leaves a process at the place where it was killed. What it unwinds, nobody hears of."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """``now`` is the wall clock that belongs to it."""

    _ready: deque[asyncio.Handle]  # asyncio's own; it has been so since Python 3.4

    def __init__(self) -> None:
        super().__init__()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timed = 0
        self._seconds = 0.0
        self._steps = 0
        self.turns = 0
        """How many callbacks were run: what two looks at it have in common is not interrupted."""

    def time(self) -> float:
        return self._seconds

    def now(self) -> datetime:
        return START + timedelta(seconds=self._seconds)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Timers of the same moment come in the order in which they were set."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timed += 1
        heapq.heappush(self._timers, (when, self._timed, timer))
        return timer

    def release(self, process: Process) -> None:
        """Let a stopped process find what it missed."""
        held, process.held = process.held, []
        self._ready.extend(held)

    def _run_once(self) -> None:
        """One round of callbacks; when there are none, time passes."""
        ready = self._ready
        if not ready:
            self._pass_time()
        count = len(ready)
        self._steps += count
        if self._steps > STEPS_MAX:
            raise RuntimeError(f"{STEPS_MAX} callbacks ran and no time passed: a loop without end")
        for _ in range(count):
            handle = ready.popleft()
            if handle.cancelled():
                continue
            self.turns += 1
            process = _context_of(handle).get(CURRENT)
            if process is None or process.life is Life.RUNNING:
                handle._run()  # as asyncio's own loop does
            elif process.life is Life.STOPPED:
                process.held.append(handle)

    def _pass_time(self) -> None:
        timers, pop = self._timers, heapq.heappop
        while timers and timers[0][2].cancelled():
            pop(timers)
        if not timers:
            raise RuntimeError("everything waits and no timer is set: a deadlock")
        self._steps = 0
        self._seconds = seconds = max(self._seconds, timers[0][0])
        while timers and timers[0][0] <= seconds:
            timer = pop(timers)[2]
            if not timer.cancelled():
                self._ready.append(timer)

    def _asyncgen_finalizer_hook(self, agen: object) -> None:
        """A generator of a killed process is left as it is."""

    def _write_to_self(self) -> None:
        """There is no thread to wake."""

    def _process_events(self, event_list: object) -> None:
        """There is no input."""


def _context_of(handle: asyncio.Handle) -> Context:
    context: Context = handle._context  # type: ignore[attr-defined]
    return context


def now() -> datetime:
    """The wall clock of the running virtual loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop.now()


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
