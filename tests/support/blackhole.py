"""A TCP proxy that can fall silent: for one process the network is gone, and nobody is told.

What a dead switch or a lost route looks like from both ends: bytes vanish, no connection is
refused, reset or closed. A killed process looks different, its kernel says goodbye for it.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 1 << 16
HOST = "127.0.0.1"


@dataclass(slots=True)
class _Line:
    """One connection through the proxy. ``client_port`` is the port at the client's end."""

    client_port: int
    cut: bool = False


@dataclass(slots=True)
class BlackHole:
    """Leads ``port`` to whatever ``upstream`` says at the time of each connection."""

    upstream: Callable[[], int]
    port: int = 0
    _lines: list[_Line] = field(default_factory=list)
    _cut: set[int] = field(default_factory=set)

    def cut(self, pid: int) -> int:
        """From now on nothing passes to or from this process; how many lines it had."""
        self._cut.add(pid)
        own = _ports_of(pid)
        lines = [line for line in self._lines if line.client_port in own]
        for line in lines:
            line.cut = True
        return len(lines)

    async def serve(self, started: Callable[[], None]) -> None:
        """Until cancelled."""
        server = await asyncio.start_server(self._connected, HOST, self.port)
        self.port = server.sockets[0].getsockname()[1]
        started()
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer.get_extra_info("peername")[1])
        line.cut = any(line.client_port in _ports_of(pid) for pid in self._cut)
        self._lines.append(line)
        try:
            there, back = await asyncio.open_connection(HOST, self.upstream())
        except OSError:
            writer.close()  # as the server itself would refuse
            return
        await asyncio.gather(_pump(line, reader, back), _pump(line, there, writer))
        self._lines.remove(line)


async def _pump(line: _Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass bytes on, and the end; on a line that was cut neither."""
    with suppress(OSError):
        while data := await source.read(CHUNK):
            if not line.cut:
                sink.write(data)
                await sink.drain()
    if not line.cut:
        sink.close()


def _ports_of(pid: int) -> set[int]:
    """The local ports of a process's TCP sockets; none when it is gone."""
    inodes = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[9] in inodes}


@contextmanager
def black_hole(upstream: Callable[[], int]) -> Iterator[BlackHole]:
    """A running proxy on a free port. ``upstream`` gives the port of the real server."""
    proxy = BlackHole(upstream)
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=[_run(proxy, started, stop)])
    thread.start()
    try:
        assert started.wait(10), "the proxy did not start"
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _run(proxy: BlackHole, started: threading.Event, stop: asyncio.Event) -> None:
    serving = asyncio.create_task(proxy.serve(started.set))
    await stop.wait()
    serving.cancel()
    # Again and again: a connection that was just accepted becomes a task only now.
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
