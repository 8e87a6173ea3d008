"""Which changes are of no interest, because the policy leaves those files out of each copy.

rsync alone decides what is copied. Here only patterns of one name are understood (``*.tmp``,
``cache/``, ``/scratch``): what another one leaves out is told of, and costs a look for nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import NamedTuple


class Name(NamedTuple):
    """A pattern of one name; ``at_top`` holds for the first name of a path alone."""

    pattern: str
    at_top: bool
    directories: bool
    """It means directories only."""

    def matches(self, name: str, *, first: bool, directory: bool) -> bool:
        fits = (first or not self.at_top) and (directory or not self.directories)
        return fits and fnmatch.fnmatchcase(name, self.pattern)


class Excludes:
    """What of ``patterns`` can be understood."""

    def __init__(self, patterns: Iterable[object]) -> None:
        self._names: list[Name] = []
        for pattern in map(str, patterns):
            name = pattern.rstrip("/").removeprefix("/")
            if name and not set(name) & set("/[\\") and "**" not in name:
                self._names.append(Name(name, pattern.startswith("/"), pattern.endswith("/")))

    def leave_out(self, path: str, *, directory: bool) -> bool:
        """Whether a relative path, or a directory that it is in, is left out for certain."""
        if not self._names:
            return False
        *parents, last = path.split("/")
        steps = [*((name, True) for name in parents), (last, directory)]
        return any(
            known.matches(name, first=number == 0, directory=is_directory)
            for number, (name, is_directory) in enumerate(steps)
            for known in self._names
        )
