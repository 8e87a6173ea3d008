"""Sealed copies: how they are named, found, kept while in use, and let go of when old."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .answers import Answer
from .files import read_json
from .host import Session, read_host
from .layout import GENERATIONS
from .refusals import Refusal

if TYPE_CHECKING:  # hashing is slow to import, and `look` has no need of it
    from .manifests import FilesByPath

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
        """Its facts: counts, hash of the manifest, times. Raises Refusal ``damaged``."""
        sealed = read_json(f"{GENERATIONS}/{self.id}/seal.json")
        if not isinstance(sealed, dict):
            raise Refusal("damaged", f"generation {self.id} has no seal", "look at the disk")
        ours = read_host().workspace
        if (sealed.get("generation"), sealed.get("workspace", ours)) != (self.id, ours):
            raise Refusal("damaged", f"generation {self.id} has the seal of another one")
        return sealed

    def files(self) -> FilesByPath:
        """What its manifest lists, if that is the one that was sealed. Raises ``damaged``."""
        import hashlib  # noqa: PLC0415 - see above

        try:
            with open(f"{GENERATIONS}/{self.id}/manifest.json", "rb") as file:
                canonical = file.read().rstrip(b"\n")  # as it was hashed when it was sealed
        except OSError:
            canonical = b""
        if hashlib.sha256(canonical).hexdigest() != self.seal()["manifest_sha256"]:
            raise Refusal("damaged", f"the manifest of generation {self.id} is not as sealed")
        files: FilesByPath = json.loads(canonical)["files"]
        return files


def generations() -> list[Generation]:
    """What is sealed, oldest first."""
    found = (_GENERATION.fullmatch(name) for name in sorted(os.listdir(GENERATIONS)))
    return [Generation(m.group(), int(m.group(1)), int(m.group(2))) for m in found if m]


def mark_of(generation: Generation) -> str:
    """The file that says that a generation must not be used; see ``soundness``."""
    return f"{GENERATIONS}/{generation.id}/damaged.json"


def is_marked(generation: Generation) -> bool:
    return os.path.exists(mark_of(generation))


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


def list_generations(_session: Session, _payload: Answer) -> Answer:
    """What is sealed here, oldest first; of what is damaged only that it is."""
    listed = []
    for generation in generations():
        try:
            listed.append({**generation.seal(), "damaged": is_marked(generation)})
        except Refusal:
            listed.append({"generation": generation.id, "damaged": True})
    return {"generations": listed}
