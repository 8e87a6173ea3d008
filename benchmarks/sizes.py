"""How much a run of the benches does. Targets are meant for the full size."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """``scale`` 1.0 is the full size; less is for trying out."""

    scale: float = 1.0

    @property
    def folded(self) -> int:
        return int(1_000_000 * self.scale)

    @property
    def few_rows(self) -> int:
        return int(1_000_000 * self.scale)

    @property
    def many_rows(self) -> int:
        return int(10_000_000 * self.scale)

    @property
    def followed(self) -> int:
        """Events in each run of the tailing reader."""
        return int(50_000 * self.scale)

    @property
    def delivered(self) -> int:
        """Facts in each run from bus to projection."""
        return int(10_000 * self.scale)
