"""The gate: the one program of ours that runs on hosts, and the names by which it is asked.

``gate.py`` is never imported by the services: recovery copies its source to each host, where it
stands alone on the standard library of whatever Python is there.
"""

from enum import StrEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("gate.py")
"""The program itself, as it is copied to hosts."""

INSTALLED_AT = "/opt/dumont/gate.py"
"""Where it lives on a host."""


class Verb(StrEnum):
    """What a session may ask for, as ``dumont VERB`` with one JSON object on standard input."""

    LOOK = "look"
    KEYPAIR = "keypair"
    PULL = "pull"
    SEAL = "seal"
    PUSH = "push"
    GENERATIONS = "generations"
    PROMOTE = "promote"
    FREEZE = "freeze"
    THAW = "thaw"
    RESTORE_BEGIN = "restore-begin"
    MANIFEST = "manifest"
    PLACE = "place"


def source() -> bytes:
    """The program's text, to be written to ``INSTALLED_AT`` on a host."""
    return SOURCE.read_bytes()
