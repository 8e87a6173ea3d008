"""Which generations still are what was sealed: a disk forgets, and only reading tells.

A generation that is found damaged is marked, and from then on it is no basis for a copy and is not
promoted: the one before it is. What is checked when:

* at a promotion, within its two seconds: that seal and manifest belong together and to this
  workspace, and that the files are there in their sizes, as many as the time allows;
* all day long, after each copy: the content, file by file, by ``scrubbing``.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from typing import Any

from .answers import iso
from .files import durable_json
from .generations import Generation, damage_of, generations, is_damaged, is_usable
from .manifests import FilesByPath
from .refusals import Refusal

QUICK_SECONDS = 0.3
PATHS_KEPT = 100


def mark_damaged(generation: Generation, paths: list[str]) -> None:
    """Let nobody use it any more, and say where it is damaged."""
    found = {"found_at": iso(time.time_ns()), "paths": paths[:PATHS_KEPT]}
    durable_json(damage_of(generation), found)


def damaged_generations() -> list[str]:
    """The ids of those that nobody must use, oldest first."""
    return [generation.id for generation in generations() if is_damaged(generation)]


def sound_generations() -> Iterator[tuple[Generation, FilesByPath]]:
    """Usable generations with what is in them, newest first; what turns out damaged is marked."""
    for generation in reversed(generations()):
        if not is_usable(generation):
            continue
        try:
            yield generation, generation.files()
        except Refusal:
            mark_damaged(generation, [])


def newest_sealed() -> tuple[Generation | None, dict[str, Any]]:
    """The newest generation that may be used as far as is known, and its seal."""
    for generation in reversed(generations()):
        if not is_usable(generation):
            continue
        try:
            return generation, generation.seal()
        except Refusal:
            mark_damaged(generation, [])
    return None, {}


def newest_sound() -> tuple[Generation | None, FilesByPath]:
    """The newest generation that is whole as far as is known, and what is in it."""
    return next(sound_generations(), (None, {}))


def promotable() -> tuple[Generation | None, FilesByPath]:
    """The newest generation whose files are all there, as far as a quick look can tell.

    Raises Refusal ``damaged`` when there are generations and none of them is whole.
    """
    for generation, files in sound_generations():
        wrong = misfits(generation.tree, files)
        if not wrong:
            return generation, files
        mark_damaged(generation, wrong)
    if generations():
        raise Refusal("damaged", "no generation here is whole", "look at the standby's disk")
    return None, {}


def misfits(tree: str, files: FilesByPath) -> list[str]:
    """Files that are not there in their size, among as many as there is time to look at."""
    deadline = time.monotonic() + QUICK_SECONDS
    wrong = []
    for path, entry in files.items():
        if time.monotonic() > deadline:
            break
        if entry["type"] == "file" and not fits(f"{tree}/{path}", entry["size"]):
            wrong.append(path)
    return wrong


def fits(path: str, size: int) -> bool:
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(info.st_mode) and info.st_size == size
