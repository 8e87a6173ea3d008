"""Sealed copies: how they are named, found, kept while in use, and let go of when old."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .answers import Answer
from .files import discard, read_json
from .host import Session
from .layout import GENERATIONS
from .locks import try_lock
from .refusals import Refusal

if TYPE_CHECKING:  # hashing is slow to import, and `look` has no need of it
    from .manifests import FilesByPath

GENERATIONS_KEPT = 20

_GENERATION = re.compile(r"e(\d{6})-(\d{8})")


class Generation(NamedTuple):
    """A sealed copy; ids sort as (epoch, sequence)."""

    id: str
    epoch: int
    sequence: int

    @property
    def tree(self) -> str:
        return f"{GENERATIONS}/{self.id}/tree"

    def seal(self) -> dict[str, Any]:
        """Its facts: counts, hash of the manifest, times."""
        sealed = read_json(f"{GENERATIONS}/{self.id}/seal.json")
        if not isinstance(sealed, dict):
            raise Refusal("damaged", f"generation {self.id} has no seal", "look at the disk")
        return sealed

    def files(self) -> FilesByPath:
        manifest = read_json(f"{GENERATIONS}/{self.id}/manifest.json")
        if not isinstance(manifest, dict):
            raise Refusal("damaged", f"generation {self.id} has no manifest", "look at the disk")
        files: FilesByPath = manifest["files"]
        return files


def generations() -> list[Generation]:
    """What is sealed, oldest first."""
    found = (_GENERATION.fullmatch(name) for name in sorted(os.listdir(GENERATIONS)))
    return [Generation(m.group(), int(m.group(1)), int(m.group(2))) for m in found if m]


def newest_generation() -> Generation | None:
    every = generations()
    return every[-1] if every else None


def find_generation(wanted: object) -> Generation:
    """The generation of this id, the newest for None. Raises Refusal ``no-generation``."""
    if wanted is None and (newest := newest_generation()):
        return newest
    for generation in generations():
        if generation.id == wanted:
            return generation
    raise Refusal("no-generation", f"there is no generation {wanted or 'at all'} here")


@contextlib.contextmanager
def in_use(generation: Generation) -> Iterator[None]:
    """Keep retention away from a generation."""
    fd = os.open(f"{GENERATIONS}/{generation.id}/seal.json", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def prune_generations() -> None:
    """Let go of old generations, never of the newest nor of one that is being sent."""
    for generation in generations()[:-GENERATIONS_KEPT]:
        fd = os.open(f"{GENERATIONS}/{generation.id}/seal.json", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if try_lock(fd, fcntl.LOCK_EX):
                discard(f"{GENERATIONS}/{generation.id}")
        finally:
            os.close(fd)


def list_generations(_session: Session, _payload: Answer) -> Answer:
    return {"generations": [generation.seal() for generation in generations()]}
