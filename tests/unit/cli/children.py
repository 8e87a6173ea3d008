"""A supervisor over small programs instead of the product, as a process of its own.

``python -m tests.unit.cli.children DIR`` keeps a server, a one-time step and a worker running.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.embedded import control, processes, run_file
from cli.embedded.child import Child
from cli.embedded.layout import Layout
from cli.embedded.supervisor import hold_lock, supervise
from tests.support.waiting import PATIENCE, eventually

PROJECT = Path(__file__).resolve().parents[3]
SLEEP = "import time; time.sleep(600)"
SERVE = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"


def children(layout: Layout) -> tuple[Child, ...]:
    """A server that says when it is ready, a step that ends, and a worker that needs both."""
    ready = layout.ready / "server"
    return (
        Child(
            name="server",
            service="server",
            argv=lambda: (sys.executable, "-c", SERVE, str(ready)),
            prepare=lambda: ready.unlink(missing_ok=True),
            ready=ready.exists,
            stuck=lambda: layout.ready.joinpath("trouble").exists() * "has a trouble of its own",
        ),
        Child(
            name="setup",
            service="setup",
            argv=lambda: (sys.executable, "-c", "print('set up')"),
            after=("server",),
            once=True,
        ),
        Child(
            name="worker",
            service="worker",
            argv=lambda: (sys.executable, "-c", SLEEP),
            after=("setup",),
        ),
    )


@contextmanager
def supervised(directory: Path) -> Iterator[Layout]:
    """A running supervisor over ``children``; everything of it is ended afterwards."""
    layout = Layout.of(directory)
    layout.make()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.cli.children", str(layout.dir)],
        cwd=PROJECT,
        env={**os.environ, processes.MARK: str(layout.dir)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        eventually(lambda: is_ready(layout), "all children are ready")
        yield layout
    finally:
        control.end(layout)
        process.wait(PATIENCE)


def is_ready(layout: Layout) -> bool:
    run = run_file.read(layout.run_file)
    return (
        run is not None and len(run.children) == 3 and all(c.ready for c in run.children.values())
    )


def child(layout: Layout, name: str) -> run_file.Running:
    run = run_file.read(layout.run_file)
    assert run is not None
    return run.children[name]


if __name__ == "__main__":
    here = Layout.of(Path(sys.argv[1]))
    assert hold_lock(here.lock_file) is not None
    asyncio.run(supervise(here, children(here), {"children": ["server", "setup", "worker"]}))
