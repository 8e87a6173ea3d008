"""What every request and answer is held to: a body that ends, and headers that are safe."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES_MAX = 64 * 1024
DISCARDED_BYTES_MAX = 16 * 1024 * 1024
"""So much of a body that is too large is still read: who is cut off while sending never sees why.
"""

_TOO_LARGE = (
    b'{"type":"urn:dumont:problem:too-large","title":"Content Too Large","status":413,'
    b'"detail":"the body is larger than 64 KiB","hint":"send only the fields that /docs lists"}'
)


class BodyLimit:
    """Refuses bodies that are larger than any request of ours needs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, size, more = b"", 0, scope["method"] not in {"GET", "HEAD"}
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client is gone
            part = message.get("body", b"")
            size += len(part)
            body = body + part if size <= BODY_BYTES_MAX else b""
            more = message.get("more_body", False) and size <= DISCARDED_BYTES_MAX
        if size > BODY_BYTES_MAX:
            await _refuse(send)
            return
        if scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": _TOO_LARGE})


class SafeHeaders:
    """Adds to every answer that it is what it says and is shown nowhere else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, safely)
