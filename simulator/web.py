"""What every port has in common: faults before the answer, JSON, and a server without signals."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any

import uvicorn

from simulator.faults import Fault, Faults

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_CUT = "simulator.cut"


def cut_the_answer(scope: Scope) -> None:
    """Do what was asked, but let the connection end before the first byte of the answer."""
    scope[_CUT] = True


class FaultyProvider:
    """An ASGI application in front of a provider's own, where that provider fails on demand."""

    def __init__(self, app: App, *, provider: str, faults: Faults) -> None:
        self._app = app
        self._provider = provider
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        circumstances = {
            "provider": self._provider,
            "method": str(scope["method"]),
            "path": str(scope["path"]),
        }
        slow = self._faults.take("slow", **circumstances)
        if slow is not None:
            await asyncio.sleep(slow.seconds())
        if self._faults.take("no-answer", **circumstances) is not None:
            cut_the_answer(scope)
            await _unless_cut(scope, send)({"type": "http.response.start"})
            return
        error = self._faults.take("http-error", **circumstances)
        if error is not None:
            await _answer(send, error)
            return
        await self._app(scope, receive, _unless_cut(scope, send))


def _unless_cut(scope: Scope, send: Send) -> Send:
    async def send_or_cut(message: Message) -> None:
        if not scope.get(_CUT):
            await send(message)
        elif message["type"] == "http.response.start":
            # uvicorn's cycle, whose method `send` is, holds the one way to drop a connection.
            send.__self__.transport.abort()  # type: ignore[attr-defined]
            await asyncio.sleep(0)

    return send_or_cut


async def _answer(send: Send, fault: Fault) -> None:
    body = fault.details.get("body", "")
    text = body if isinstance(body, str) else json.dumps(body)
    kind = "text/plain" if isinstance(body, str) else "application/json"
    headers = {"content-type": str(fault.details.get("content_type", kind))}
    headers |= {str(k).lower(): str(v) for k, v in fault.details.get("headers", {}).items()}
    await send(
        {
            "type": "http.response.start",
            "status": int(fault.details.get("status", 500)),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()]
            + [(b"content-length", str(len(text.encode())).encode())],
        }
    )
    await send({"type": "http.response.body", "body": text.encode()})


def _listening(host: str, port: int) -> socket.socket:
    """A socket that says it is TCP: only then asyncio switches Nagle's delay of 40 ms off."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


class Server(uvicorn.Server):
    """One port; the program around it owns the signals."""

    def __init__(self, app: App, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                http="h11",
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        self._socket = _listening(host, port)
        self.bound_port: int = self._socket.getsockname()[1]

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave SIGINT and SIGTERM alone."""
        yield

    async def run_until_told(self) -> None:
        """Serve until ``should_exit`` is set."""
        await self.serve(sockets=[self._socket])
