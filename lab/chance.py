"""Chance from one seed: a stream of its own for each thing that is left to chance.

So a fault that is taken out of a run (to see whether it matters) does not change every other draw.
A stream is seeded with text, which Python hashes itself: the same in every process.
"""

from random import Random


class Chance:
    """All streams of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, Random] = {}

    def of(self, name: str) -> Random:
        """The stream of this name; the same object each time."""
        if name not in self._streams:
            self._streams[name] = Random(f"{self.seed}/{name}")
        return self._streams[name]
