"""python -m benchmarks.log [PART ...]: run all parts, or some, and judge what was measured."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.log import append
from benchmarks.measures import Measured, report
from tests.support.servers import Postgres, postgres_server

Part = Callable[[Postgres, Callable[[str], None]], Awaitable[list[Measured]]]

PARTS: dict[str, Part] = {"append": append.measure}


def progress() -> Callable[[str], None]:
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {what}", file=sys.stderr, flush=True)

    return say


async def main(parts: list[str]) -> bool:
    say = progress()
    found: list[Measured] = []
    with postgres_server() as server:
        await server.query("CREATE DATABASE peer")
        for name in parts:
            found += await PARTS[name](server, say)
    return report("log", found)


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := set(wanted) - PARTS.keys():
        sys.exit(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    sys.exit(0 if asyncio.run(main(wanted)) else 1)
