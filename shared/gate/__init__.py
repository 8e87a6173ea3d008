"""The gate: the one program of ours that runs on hosts, and the names by which it is asked.

The services never import the program: recovery copies it to each host as one file, where it stands
alone on the standard library of whatever Python is there.
"""

import io
from enum import StrEnum
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

PROGRAM = Path(__file__).with_name("program")
"""The modules of the program."""

INSTALLED_AT = "/opt/dumont/gate.pyz"
"""Where it lives on a host, as one file that Python runs."""

_PACKAGE = "gate"
_START = f"import sys\n\nfrom {_PACKAGE}.main import main\n\nsys.exit(main())\n"
_WRITTEN = (1980, 1, 1, 0, 0, 0)


class Verb(StrEnum):
    """What a session may ask for, as ``dumont VERB`` with one JSON object on standard input."""

    LOOK = "look"
    KEYPAIR = "keypair"
    PULL = "pull"
    FOLLOW = "follow"
    SEAL = "seal"
    PUSH = "push"
    GENERATIONS = "generations"
    PROMOTE = "promote"
    FREEZE = "freeze"
    THAW = "thaw"
    WATCH = "watch"
    RESTORE_BEGIN = "restore-begin"
    MANIFEST = "manifest"
    PLACE = "place"


def source() -> bytes:
    """The program as one zip file, to be written to ``INSTALLED_AT`` on a host.

    The same modules give the same bytes wherever this runs: no times, no owners, no compression.
    """
    modules = {f"{_PACKAGE}/{path.name}": path.read_bytes() for path in PROGRAM.glob("*.py")}
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_STORED) as archive:
        for name, text in sorted({"__main__.py": _START.encode(), **modules}.items()):
            entry = ZipInfo(name, _WRITTEN)
            entry.create_system = 3  # Unix, also where this runs on something else
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text)
    return packed.getvalue()
