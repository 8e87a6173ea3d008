"""A server on loopback that gives prepared answers, to show what a client makes of each.

For what a whole simulated cloud would never say: garbage, broken connections, odd refusals.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """``body`` is JSON unless it is text; ``hang_up`` closes the connection without a word."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Any


class Answers:
    """Answers by method and path, in the order given; the last one of a kind is repeated."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self._prepared: dict[tuple[str, str], list[Answer]] = {}

    def to(self, method: str, path: str, *answers: Answer) -> None:
        self._prepared[method, path] = list(answers)

    def count(self, method: str, path: str) -> int:
        return sum((asked.method, asked.path) == (method, path) for asked in self.asked)

    def next(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        prepared = self._prepared.get((asked.method, asked.path))
        if not prepared:
            return Answer({"error": "nothing prepared", "msg": asked.path}, status=599)
        return prepared.pop(0) if len(prepared) > 1 else prepared[0]


@contextmanager
def prepared_answers() -> Iterator[Answers]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            url = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = Asked(
                method=self.command,
                path=url.path,
                query=url.query,
                headers=dict(self.headers),
                body=json.loads(raw) if raw else None,
            )
            answer = answers.next(asked)
            if answer.hang_up:
                self.close_connection = True
                return
            text = isinstance(answer.body, str)
            body = answer.body.encode() if text else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    answers = Answers(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
