"""A matrix of slow cases: a seeded sample in `make test`, all of it in `make test-full`."""

import os
import random
from collections.abc import Sequence
from typing import Any

import pytest

SEED = int(os.environ.get("DUMONT_TEST_SEED", "1"))


def sampled(cases: Sequence[Any], count: int) -> list[Any]:
    """All cases as parameters; those beyond a sample of ``count`` carry the mark ``full``."""
    chosen = set(random.Random(SEED).sample(range(len(cases)), count))
    return [
        pytest.param(*_several(case), marks=() if i in chosen else (pytest.mark.full,))
        for i, case in enumerate(cases)
    ]


def _several(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
