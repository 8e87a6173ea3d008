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
from .files import durable_json, read_json
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


def damage_of(generation: Generation) -> str:
    """The file that says that a generation is not whole any more; see ``soundness``."""
    return f"{GENERATIONS}/{generation.id}/damaged.json"


def is_damaged(generation: Generation) -> bool:
    return os.path.exists(damage_of(generation))


def is_usable(generation: Generation) -> bool:
    """Whether it is whole as far as is known, and nobody went back to what was before it."""
    return not is_damaged(generation) and not is_passed_over(generation)


def is_passed_over(generation: Generation) -> bool:
    return os.path.exists(_passed_over(generation))


def go_back_to(wanted: str) -> None:
    """Use this generation and none that is newer, from now on; call it locked.

    Where it was let go of meanwhile: the newest before it, else the oldest that is left. Those
    that are passed over are kept as long as others of their age: going back may be regretted.
    """
    whole = [generation for generation in generations() if not is_damaged(generation)]
    if not whole:
        return
    older = [generation for generation in whole if generation.id <= wanted]
    chosen = older[-1] if older else whole[0]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_passed_over(chosen))
    for generation in generations():
        if generation > chosen:
            durable_json(_passed_over(generation), {"for": chosen.id})


def _passed_over(generation: Generation) -> str:
    return f"{GENERATIONS}/{generation.id}/passed-over.json"


def newest_generation() -> Generation | None:
    every = generations()
    return every[-1] if every else None


def find_generation(wanted: object) -> Generation:
    """The generation of this id, for None the newest that nobody went back from, whole or not.

    Raises Refusal ``no-generation``.
    """
    for generation in reversed(generations()):
        if generation.id == wanted or (wanted is None and not is_passed_over(generation)):
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
            listed.append({**generation.seal(), "damaged": is_damaged(generation)})
        except Refusal:
            listed.append({"generation": generation.id, "damaged": True})
    return {"generations": listed}
