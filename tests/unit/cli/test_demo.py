"""What the demo's judge and its workspaces rely on."""

import asyncio

import pytest

from cli.demo import judge
from cli.demo.meeting import Meeting
from cli.demo.options import Options, checked
from cli.errors import CliError, UsageError
from tests.support import virtual_time


def test_nobody_goes_on_before_all_are_here_and_who_left_is_not_waited_for() -> None:
    order: list[str] = []

    async def party(meeting: Meeting, name: str, late: float) -> None:
        await asyncio.sleep(late)
        order.append(f"{name} comes")
        await meeting.all_here(60)
        order.append(f"{name} goes")

    async def story() -> None:
        meeting = Meeting(3)
        async with asyncio.TaskGroup() as group:
            group.create_task(party(meeting, "a", 1))
            group.create_task(party(meeting, "b", 2))
            await asyncio.sleep(3)
            assert order == ["a comes", "b comes"]
            await meeting.leave()

    virtual_time.run(story())
    assert order == ["a comes", "b comes", "a goes", "b goes"]


def test_a_meeting_that_does_not_come_about_is_an_error() -> None:
    async def story() -> None:
        await Meeting(2).all_here(5)

    with pytest.raises(CliError, match="within 5 s"):
        virtual_time.run(story())


def machine(label: str, *intervals: tuple[float, float | None]) -> dict[str, object]:
    return {
        "label": label,
        "kind": "gpu",
        "running_usd": 1.0,
        "intervals": [{"from": a, "to": b, "cause": "rented"} for a, b in intervals],
    }


def test_each_workspace_is_billed_for_its_own_machines_alone() -> None:
    ledger = {
        "now": 100.0,
        "instances": [
            machine("demo-demo-1-e0-a1", (0, 50)),
            machine("demo-demo-1-e2-a1", (40, None)),
            machine("demo-demo-10-e0-a1", (0, None)),
        ],
    }
    one, ten = (judge.bill(ledger, workspace=name) for name in ("demo-1", "demo-10"))
    assert (one.gpus_now, one.double_seconds, one.usd) == (1, 10.0, 2.0)
    assert (ten.gpus_now, ten.double_seconds) == (1, 0.0)
    assert judge.bill(ledger).gpus_now == 2


def test_silence_alone_is_no_story_of_a_few() -> None:
    few = Options(workspaces=4, fault="silence-alone", big_file_bytes=1, small_files=1)
    with pytest.raises(UsageError, match="5 workspaces"):
        checked(few)
