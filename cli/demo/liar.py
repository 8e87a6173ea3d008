"""A load balancer that says it switched and did not: stands between recovery and HAProxy.

For ``--sabotage leave-endpoint`` only. Everything is passed on until ``lying`` is set; from then
on changes are answered as HAProxy would, and not made.
"""

import asyncio
from pathlib import Path


class Liar:
    """Listens on ``listen`` and speaks to the real runtime socket ``real``."""

    def __init__(self, listen: Path, real: Path) -> None:
        self._listen = listen
        self._real = real
        self.lying = False

    async def run(self) -> None:
        """Until cancelled."""
        server = await asyncio.start_unix_server(self._serve, path=str(self._listen))
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readline()
            writer.write(await self._answer(asked))
            await writer.drain()
        except (ConnectionError, OSError):
            pass  # HAProxy is away: so are we
        finally:
            writer.close()

    async def _answer(self, asked: bytes) -> bytes:
        if self.lying and asked.startswith((b"set server", b"shutdown")):
            return b"\n"
        reader, writer = await asyncio.open_unix_connection(str(self._real))
        try:
            writer.write(asked)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()
