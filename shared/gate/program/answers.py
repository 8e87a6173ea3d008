"""What goes between the gate and its client: one request in, lines of JSON out."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

from .refusals import ClientGoneError, Refusal, as_refusal

Answer = dict[str, Any]
REQUEST_BYTES_MAX = 1 << 20


def read_request() -> Answer:
    """The one JSON object on standard input; nothing at all is an empty one."""
    line = sys.stdin.buffer.readline(REQUEST_BYTES_MAX)
    try:
        request = json.loads(line or b"{}")
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise Refusal("bad-request", "the request must be one line with one JSON object")
    return request


def say(kind: str, body: Answer) -> None:
    """One line of the answer. Raises ClientGoneError."""
    try:
        sys.stdout.write(json.dumps({kind: body}, separators=(",", ":")) + "\n")
        sys.stdout.flush()
    except OSError:
        raise ClientGoneError from None


def answer(work: Callable[[], Answer]) -> None:
    """Say what came of it as the last line."""
    try:
        try:
            say("ok", work())
        except ClientGoneError:
            raise
        except Exception as error:
            refusal = as_refusal(error)
            hint = refusal.hint
            say("error", {"code": refusal.code, "reason": refusal.reason, "hint": hint})
    except ClientGoneError:
        os._exit(1)  # nothing is left to say, and nothing to flush


def client_is_gone() -> bool:
    """Whether the other end of our standard output is closed: sshd closes it with the session."""
    poll = select.poll()
    poll.register(1, 0)
    return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))


def iso(nanoseconds: int) -> str:
    """A wall-clock time as ISO 8601 in UTC."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}+00:00"


def one_line(raw: bytes, limit: int = 300) -> str:
    """What another program said, fit for a message: its last words, printable."""
    text = raw[-4 * limit :].decode(errors="replace")
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words[-limit:]
