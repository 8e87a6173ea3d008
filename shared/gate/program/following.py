"""``follow``: hearing from the GPU what changes there, so that it is copied within seconds.

Names only, and only as a hint: what is copied is decided here, by a copy like any other.
"""

from __future__ import annotations

import json
import math

from .answers import Answer, say
from .host import Session
from .peers import reach
from .programs import run_job
from .refusals import Refusal
from .rsync import sort_failure

LINE_BYTES_MAX = 1 << 20


def follow(session: Session, payload: Answer) -> Answer:
    """Pass on what the GPU's gate tells, until either end goes. Always ends with a refusal."""
    with reach(session, payload["source"], payload) as peer:
        login = [*peer.ssh, f"{peer.user}@{peer.address}", "dumont watch"]
        request = json.dumps({"excludes": payload.get("excludes", ())}).encode() + b"\n"
        heard = Heard()
        finished = run_job(
            login, epoch=session.epoch, deadline=math.inf, request=request, on_output=heard
        )
    if heard.error:
        code, reason, hint = (str(heard.error.get(key, "")) for key in ("code", "reason", "hint"))
        raise Refusal(code or "source-refused", reason, hint)
    raise sort_failure("source", finished)


class Heard:
    """The lines of the GPU's gate, put together again and checked: that host is not ours."""

    def __init__(self) -> None:
        self._rest = b""
        self.error: Answer = {}

    def __call__(self, output: bytes) -> None:
        *lines, self._rest = (self._rest + output).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise Refusal("source-refused", "the source's watch says lines without an end")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            told = json.loads(line)
            if "progress" not in told:
                self.error = dict(told.get("error", {}))
                return
            paths, overflow = told["progress"]["paths"], bool(told["progress"]["overflow"])
            if not all(isinstance(path, str) and inside(path) for path in paths):
                raise ValueError(paths)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refusal("source-refused", "the source's watch makes no sense") from None
        say("progress", {"paths": paths, "overflow": overflow})


def inside(path: str) -> bool:
    """Whether a path stays below the top that it is meant relative to."""
    parts = path.split("/")
    return bool(path) and "\0" not in path and not {"", ".", ".."} & set(parts)
