"""Processes of the lab die and stop as real ones do."""

import asyncio
from contextvars import copy_context

from lab.clock import CURRENT, Life, Process, VirtualTimeLoop
from lab.processes import Graveyard, end


def begun(loop: VirtualTimeLoop, process: Process, told: list[str]) -> None:
    async def work() -> None:
        try:
            for second in range(1, 6):
                await asyncio.sleep(1)
                told.append(f"{second} at {loop.time():g}")
        finally:
            told.append("unwound")

    context = copy_context()
    context.run(CURRENT.set, process)
    loop.create_task(work(), context=context)


def played(do: str) -> list[str]:
    loop, process, told = VirtualTimeLoop(), Process("worker"), list[str]()
    graveyard = Graveyard(loop)

    async def main() -> None:
        begun(loop, process, told)
        await asyncio.sleep(2.5)
        if do == "kill":
            end(process)
        else:
            process.life = Life.STOPPED
        await asyncio.sleep(10)
        if do == "pause":
            process.life = Life.RUNNING
            loop.release(process)
        await asyncio.sleep(10)

    loop.run_until_complete(main())
    heard = list(told)
    graveyard.close()
    loop.close()
    return heard


def test_a_killed_process_never_runs_again_not_even_to_clean_up() -> None:
    assert played("kill") == ["1 at 1", "2 at 2"]


def test_a_stopped_process_goes_on_late_where_it_was() -> None:
    late = ["3 at 12.5", "4 at 13.5", "5 at 14.5", "unwound"]
    assert played("pause") == ["1 at 1", "2 at 2", *late]
