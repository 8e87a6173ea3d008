"""Why the gate does not do what it was asked: typed, so that no client ever sees a traceback."""

from __future__ import annotations

import errno

REFUSAL_MARK = "dumont-gate-refusal:"
"""How the gate of a GPU tells its reason through rsync's standard error."""


class Refusal(Exception):
    """Why the gate does not do what it was asked: a code for programs, words for people."""

    def __init__(self, code: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.hint = hint


class ClientGoneError(Exception):
    """Nobody is there any more to hear the answer: what was begun is ended."""


def as_refusal(error: Exception) -> Refusal:
    """What a client is told of an error that nobody foresaw: never a traceback."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refusal("disk-full", f"the disk is full: {error.filename or ''}", "make room on it")
    if isinstance(error, (KeyError, TypeError, ValueError)):
        return Refusal("bad-request", f"{type(error).__name__}: {error}")
    return Refusal("internal", f"{type(error).__name__}: {error}")
