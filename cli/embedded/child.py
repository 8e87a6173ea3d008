"""One program that a supervisor keeps running, as data."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What to start, after what, and how to know that it is ready.

    ``after`` names the children that must be ready first. ``prepare`` runs before each start and
    may raise OSError or ValueError, ``argv`` is asked next, and ``ready`` every 20 ms from the
    start on: they run in a thread and may block. With ``once`` it is to end with 0, which is its
    readiness; anything else is tried again. ``user`` is the account to run under, None for ours.
    ``stuck`` is asked every few seconds of one that is ready: a reason why only a restart helps,
    or "".
    """

    name: str
    service: str
    argv: Callable[[], Sequence[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    ready: Callable[[], bool] = lambda: True
    stuck: Callable[[], str] | None = None
    after: tuple[str, ...] = ()
    once: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    user: str | None = None
