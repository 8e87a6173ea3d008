"""``python -m simulator [--dir DIR]``: the simulated clouds on their own."""

import argparse
import contextlib
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from simulator.main import run
from simulator.options import Options


def _parser() -> argparse.ArgumentParser:
    """Every field of Options is an option; its default comes from there too."""
    defaults = Options(directory=Path())
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    parser.add_argument("--dir", dest="directory", type=Path, help="default: a temporary one")
    for name in Options.__dataclass_fields__:
        if name != "directory":
            default = getattr(defaults, name)
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(
                flag, type=type(default), default=default, help=f"default: {default!r}"
            )
    return parser


def _directory(chosen: Path | None) -> AbstractContextManager[Path | str]:
    if chosen is not None:
        return contextlib.nullcontext(chosen)
    return tempfile.TemporaryDirectory(prefix="dumont-simulator-")


def main(arguments: list[str]) -> int:
    """Run with these command-line arguments; returns the exit code."""
    chosen = vars(_parser().parse_args(arguments))
    with _directory(chosen.pop("directory")) as directory:
        return run(Options(directory=Path(directory).absolute(), **chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
