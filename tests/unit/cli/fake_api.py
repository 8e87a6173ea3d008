"""An HTTP server that answers with what a test wrote down, for a client that speaks HTTP."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Recorded:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Script:
    """Answers by ``METHOD /path``: each is (status, body), the last one stays."""

    url: str = ""
    answers: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    requests: list[Recorded] = field(default_factory=list)

    def answer(self, request: str, status: int, body: Any) -> None:
        self.answers.setdefault(request, []).append((status, body))


@contextmanager
def scripted_api() -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            path = self.path.partition("?")[0]
            body = json.loads(raw) if raw else None
            script.requests.append(
                Recorded(
                    self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body
                )
            )
            queue = script.answers.get(f"{self.command} {path}", [(404, {"detail": "no such"})])
            status, answer = queue.pop(0) if len(queue) > 1 else queue[0]
            payload = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_DELETE = _any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
