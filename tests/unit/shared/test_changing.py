"""A state that is replaced is a new one, whole, and nothing else changed."""

import dataclasses

import pytest

from services.recovery.domain.state import Attempt, Phase, State
from shared.changing import replace
from shared.machines import WorkspaceName
from shared.policy import Policy


@pytest.mark.parametrize("record", [State(workspace=WorkspaceName("train")), Attempt(), Policy()])
def test_a_copy_is_what_the_standard_library_makes(record: State | Attempt | Policy) -> None:
    assert replace(record) == dataclasses.replace(record)
    assert replace(record) is not record


def test_only_what_is_named_changes_and_only_in_the_copy() -> None:
    before = State(workspace=WorkspaceName("train"))
    after = replace(before, epoch=3, phase=Phase.SYNCING)
    assert after == dataclasses.replace(before, epoch=3, phase=Phase.SYNCING)
    assert (before.epoch, before.phase) == (0, Phase.UNREGISTERED)
    assert hash(after) == hash(dataclasses.replace(after))


def test_a_field_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="epoc"):
        replace(State(workspace=WorkspaceName("train")), epoc=3)  # type: ignore[call-arg]
