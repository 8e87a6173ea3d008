"""Named places in the code where a test may stop the process dead.

A service passes its places with ``reach``; they do nothing unless a test arms them. Outside of
the process that is a directory (``DUMONT_FAILPOINTS``) in which a file with the name of a place
holds what is to happen there, once: ``kill`` or ``stop`` (the signals of these names, to itself).
Inside it is a function. The idea and the word are those of FreeBSD's fail(9).
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

Passed = Callable[[str], None]
_passed: Passed | None = None


def reach(place: str, of: str = "") -> None:
    """Pass a place, such as ``effect.before`` of ``RentGpu``."""
    if _passed is not None:
        _passed(f"{place}:{of}" if of else place)


def arm(passed: Passed | None) -> None:
    """From now on call this at every place; None to disarm."""
    global _passed  # noqa: PLW0603 # one process, one set of places
    _passed = passed


def arm_from(directory: Path) -> None:
    """From now on look in a directory at every place."""

    def passed(name: str) -> None:
        armed = directory / name
        try:
            what = armed.read_text().strip()
            armed.unlink()  # first: a process that is started again passes here unharmed
        except FileNotFoundError:
            return
        os.kill(os.getpid(), SIGNALS[what])

    arm(passed)
