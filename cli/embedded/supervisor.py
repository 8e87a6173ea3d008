"""The parent of an embedded stack: starts its children in order and restarts whatever dies.

What to start is data (``Child``), so the same supervisor runs two servers in a test and the
whole product in earnest. It keeps ``run.json`` true after every change: whoever wants to end
the stack, also after this process was killed, finds every process there with its start time.
"""

import argparse
import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from cli.embedded import processes, run_file, stack
from cli.embedded.child import Child
from cli.embedded.files import last_lines
from cli.embedded.layout import Layout
from cli.embedded.settings import read_settings
from shared.clock import now

BACKOFF_MIN = 0.2
BACKOFF_MAX = 5.0
STEADY_SECONDS = 10.0
"""A child that lived so long starts again without a grown wait."""
STOP_GRACE = 5.0
STUCK_POLL = 1.0
STUCK_TIMES = 3
"""So many times in a row it must say that only a restart helps: its start is trouble enough."""
LOG_SIZE_MAX = 16 << 20
_POLL = 0.02


def next_backoff(previous: float, lived: float) -> float:
    """How long to wait before the next start of a child that lived ``lived`` seconds."""
    if previous == 0 or lived >= STEADY_SECONDS:
        return BACKOFF_MIN
    return min(previous * 2, BACKOFF_MAX)


class Supervisor:
    """Runs ``children`` until ``stop`` is called."""

    def __init__(
        self, layout: Layout, children: Sequence[Child], facts: Mapping[str, object]
    ) -> None:
        me = processes.identify(os.getpid())
        assert me is not None
        self._layout = layout
        self._children = children
        self._run = run_file.Run(supervisor=me, facts=facts)
        self._ready = {child.name: asyncio.Event() for child in children}
        self._live: dict[str, asyncio.subprocess.Process] = {}
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Start everything, keep it running, and on ``stop`` end it, dependants first."""
        self._save()
        tasks = [asyncio.create_task(self._keep(child)) for child in self._children]
        stopped = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
        await self._end_all()
        for task in done - {stopped}:
            task.result()

    async def _keep(self, child: Child) -> None:
        for name in child.after:
            await self._ready[name].wait()
        backoff = 0.0
        while True:
            started = time.monotonic()
            reason = await self._live_once(child)
            if reason is None:
                await self._stop.wait()
                return
            backoff = next_backoff(backoff, time.monotonic() - started)
            log(f"{child.name} {reason}; starts again in {backoff:.1f} s")
            await asyncio.sleep(backoff)

    async def _live_once(self, child: Child) -> str | None:
        """One life of a child; why it has to start again, None when it is done for good."""
        try:
            process = await self._start(child)
        except (OSError, ValueError) as error:
            return f"did not start: {error}"
        watch = asyncio.create_task(self._watch(child, process))
        try:
            status = await process.wait()
        finally:
            watch.cancel()
        del self._live[child.name]
        if child.once and status == 0:
            self._change(child, process=None, ready=True)
            self._ready[child.name].set()
            return None
        before = self._run.children[child.name].restarts
        self._change(child, process=None, ready=False, restarts=before + 1)
        return describe_end(status, self._layout.log(child.name))

    async def _start(self, child: Child) -> asyncio.subprocess.Process:
        await asyncio.to_thread(child.prepare)
        with open_log(self._layout.log(child.name)) as output:
            process = await asyncio.create_subprocess_exec(
                *child.argv(),
                env={**child.env, processes.MARK: str(self._layout.dir)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                cwd="/" if child.user else None,
                user=child.user,
                group=child.user,
                extra_groups=[] if child.user else None,
            )
        self._live[child.name] = process
        self._change(child, process=processes.identify(process.pid), ready=False)
        log(f"{child.name} started as {process.pid}")
        return process

    async def _watch(self, child: Child, process: asyncio.subprocess.Process) -> None:
        if child.once:
            return
        await self._watch_ready(child, process)
        if child.stuck is not None:
            await self._watch_stuck(child, child.stuck, process)

    async def _watch_stuck(
        self, child: Child, stuck: Callable[[], str], process: asyncio.subprocess.Process
    ) -> None:
        times = 0
        while times < STUCK_TIMES:
            await asyncio.sleep(STUCK_POLL)
            reason = await asyncio.to_thread(stuck)
            times = times + 1 if reason else 0
        log(f"{child.name} {reason}: it is started again")
        await self._terminate(child, process)

    async def _watch_ready(self, child: Child, process: asyncio.subprocess.Process) -> None:
        while process.returncode is None:
            if await asyncio.to_thread(child.ready):
                log(f"{child.name} is ready")
                self._change(child, ready=True)
                self._ready[child.name].set()
                return
            await asyncio.sleep(_POLL)

    def _change(self, child: Child, **changes: object) -> None:
        blank = run_file.Running(
            service=child.service, process=None, stop_signal=int(child.stop_signal)
        )
        was = self._run.children.get(child.name, blank)
        is_now = replace(was, **changes)  # type: ignore[arg-type]
        self._run = replace(self._run, children={**self._run.children, child.name: is_now})
        self._save()

    def _save(self) -> None:
        run_file.write(self._layout.run_file, self._run)

    async def _end_all(self) -> None:
        while self._live:
            live = [child for child in self._children if child.name in self._live]
            needed = {name for child in live for name in child.after}
            await asyncio.gather(*(self._end(child) for child in live if child.name not in needed))

    async def _end(self, child: Child) -> None:
        await self._terminate(child, self._live[child.name])
        del self._live[child.name]
        self._change(child, process=None, ready=False)

    async def _terminate(self, child: Child, process: asyncio.subprocess.Process) -> None:
        # asyncio has not reaped it yet, so the number cannot belong to anybody else.
        with suppress(ProcessLookupError):
            process.send_signal(child.stop_signal)
        try:
            async with asyncio.timeout(STOP_GRACE):
                await process.wait()
        except TimeoutError:
            log(f"{child.name} did not end within {STOP_GRACE:.0f} s: killed")
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def log(text: str) -> None:
    """One line for ``supervisor.log`` (our standard error)."""
    print(now().isoformat(timespec="milliseconds"), text, file=sys.stderr, flush=True)


def open_log(path: Path) -> IO[bytes]:
    """Open a child's log at its end; one that has grown too large makes room for a new one."""
    with suppress(FileNotFoundError):
        if path.stat().st_size > LOG_SIZE_MAX:
            path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.fdopen(descriptor, "ab")


def describe_end(status: int, path: Path) -> str:
    """How a child ended, with the last thing it said."""
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
    said = last_lines(path, 1)
    return f"{how} ({said[0].strip()[:300]})" if said else how


def hold_lock(path: Path) -> int | None:
    """Take the lock for the life of this process; None when another supervisor holds it.

    The descriptor is not inherited: a child that outlives us must not keep the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


async def supervise(layout: Layout, children: Sequence[Child], facts: Mapping[str, object]) -> None:
    """Run the children until SIGTERM or SIGINT."""
    supervisor = Supervisor(layout, children, facts)
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, supervisor.stop)
    await supervisor.run()


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m cli.embedded.supervisor --dir DIR``: the settings are in DIR/stack.json."""
    parser = argparse.ArgumentParser(prog="python -m cli.embedded.supervisor")
    parser.add_argument("--dir", type=Path, required=True)
    layout = Layout.of(parser.parse_args(argv).dir)
    if hold_lock(layout.lock_file) is None:
        log("another supervisor runs this directory")
        return 1
    try:
        plan = stack.plan(layout, read_settings(layout), os.environ)
    except (OSError, ValueError) as error:
        log(str(error))
        return 1
    asyncio.run(supervise(layout, plan.children, plan.facts))
    layout.run_file.unlink(missing_ok=True)
    log("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
