"""A way to a server that can be slow, lose answers, swallow everything, or be cut."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

POLL = 0.02


@dataclass(slots=True)
class Way:
    """Clients come in at ``port``. Change what happens to them at any time, from any thread.

    ``slow``: so many seconds go by before each piece of an answer. ``mute``: answers are lost.
    ``hole``: nothing passes in either direction, as between two networks, and nobody is told; it
    arrives when the hole is closed. ``cut``: connections are ended, and refused from then on.
    """

    port: int = 0
    slow: float = 0.0
    mute: bool = False
    hole: bool = False
    cut: bool = False

    def heal(self) -> None:
        self.slow, self.mute, self.hole, self.cut = 0.0, False, False, False


@contextmanager
def way_to(port: int) -> Iterator[Way]:
    """A way to 127.0.0.1:``port``, in a thread and a loop of its own."""
    way = Way()
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _carry(way, port, reader, writer)

        server = await asyncio.start_server(come, "127.0.0.1", 0)
        way.port = server.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        server.close()
        way.cut = True
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield way
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _carry(
    way: Way, port: int, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
) -> None:
    if way.cut:
        to_client.close()
        return
    try:
        server, to_server = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        to_client.close()
        return
    async with asyncio.TaskGroup() as group:
        both = [
            group.create_task(_copy(way, client, to_server, answers=False)),
            group.create_task(_copy(way, server, to_client, answers=True)),
        ]
        await _until(lambda: way.cut or any(task.done() for task in both))
        for writer in (to_client, to_server):
            writer.close()
        for task in both:
            task.cancel()


async def _copy(
    way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
) -> None:
    with suppress(OSError):
        while data := await source.read(1 << 16):
            if answers:
                await asyncio.sleep(way.slow)
            await _until(lambda: not way.hole)
            if not (answers and way.mute):
                sink.write(data)
                await sink.drain()


async def _until(met: Callable[[], bool]) -> None:
    while not met():
        await asyncio.sleep(POLL)
