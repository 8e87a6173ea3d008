"""Virtual time, and processes on it that can be killed and stopped like real ones.

The clock jumps to the next timer, so hours of waiting pass in milliseconds. Every callback belongs
to the process in whose context it was scheduled. A process that was killed is never called again:
no ``except``, no ``finally`` and no ``async with`` of it runs, as after SIGKILL. One that is
stopped (SIGSTOP) finds its callbacks and timers late when it goes on. What happens in the world
around the processes belongs to none of them: it is a plain function on the clock (``arrange``).
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Happening = Callable[[], object]
"""Something in the world, which no process does."""

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
        self.held: list[Callback] = []
        self.kill: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} {self.life.name.lower()}>"


CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)
"""The process that is being run; None for the world around the processes."""


class KilledError(BaseException):
    """Leaves a process at the place where it was killed. What it unwinds, nobody hears of."""


class Callback(asyncio.TimerHandle):
    """asyncio's own without what a debugger asks of it: there are some hundred thousand in a run.

    It serves as a timer, and as what is to be called soon.
    """

    __slots__ = ("_arguments", "_call", "context")

    def __init__(
        self,
        when: float,
        call: Callable[..., object],
        arguments: Sequence[Any],
        context: Context | None,
    ) -> None:
        self._when = when
        self._call = call
        self._arguments = arguments
        self._cancelled = False
        self.context = copy_context() if context is None else context

    def cancel(self) -> None:
        self._cancelled = True

    def __repr__(self) -> str:
        return f"<Callback {self._call}>"


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """``now`` is the wall clock that belongs to it."""

    _ready: deque[Callback]  # asyncio's own; it has been so since Python 3.4
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._timers: list[tuple[float, int, Callback | Happening]] = []
        self._timed = 0
        self._seconds = 0.0
        self._steps = 0
        self.turns = 0
        """How many callbacks were run: what two looks at it have in common is not interrupted."""

    def time(self) -> float:
        return self._seconds

    def now(self) -> datetime:
        return START + timedelta(seconds=self._seconds)

    def arrange(self, seconds: float, happening: Happening) -> None:
        """Let something happen in the world after so many seconds, whoever lives then.

        What it raises ends the run: nobody is there to hear it.
        """
        self._timed += 1
        heapq.heappush(self._timers, (self._seconds + seconds, self._timed, happening))

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Timers of the same moment come in the order in which they were set."""
        timer = Callback(when, callback, args, context)
        self._timed += 1
        heapq.heappush(self._timers, (when, self._timed, timer))
        return timer

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._seconds + delay, callback, *args, context=context)

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        soon = Callback(self._seconds, callback, args, context)
        self._ready.append(soon)
        return soon

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
            callback = ready.popleft()
            if callback._cancelled:
                continue
            self.turns += 1
            context = callback.context
            process = context.get(CURRENT)
            if process is None or process.life is Life.RUNNING:
                try:
                    context.run(callback._call, *callback._arguments)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.call_exception_handler({"message": repr(callback), "exception": error})
            elif process.life is Life.STOPPED:
                process.held.append(callback)

    def _pass_time(self) -> None:
        """To the next moment in which something happens that concerns a callback."""
        timers, ready, pop = self._timers, self._ready, heapq.heappop
        while not ready:
            if not timers:
                raise RuntimeError("everything waits and no timer is set: a deadlock")
            moment = timers[0][0]
            if moment > self._seconds:
                self._seconds = moment
                self._steps = 0
            while timers and timers[0][0] <= self._seconds:
                timer = pop(timers)[2]
                if not isinstance(timer, Callback):
                    timer()
                elif not timer._cancelled:
                    ready.append(timer)

    def _asyncgen_finalizer_hook(self, agen: object) -> None:
        """A generator of a killed process is left as it is."""

    def _write_to_self(self) -> None:
        """There is no thread to wake."""

    def _process_events(self, event_list: object) -> None:
        """There is no input."""


def running() -> VirtualTimeLoop:
    """The virtual loop that runs now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


def now() -> datetime:
    """The wall clock of the running virtual loop."""
    return running().now()


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
