"""python -m benchmarks.log [--scale X] [PART ...]: run all parts or some, and judge them."""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.log import append, fold, pipeline, skipping, timeline
from benchmarks.measures import Measured, report
from benchmarks.sizes import Sizes
from shared import logs
from tests.support.servers import Postgres, postgres_server

Part = Callable[[Postgres, Callable[[str], None], Sizes], Awaitable[list[Measured]]]

PARTS: dict[str, Part] = {
    "append": append.measure,
    "pipeline": pipeline.measure,
    "skipping": skipping.measure,
    "fold": fold.measure,
    "timeline": timeline.measure,
}


def progress() -> Callable[[str], None]:
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {what}", file=sys.stderr, flush=True)

    return say


async def main(parts: Sequence[str], sizes: Sizes) -> bool:
    say = progress()
    found: list[Measured] = []
    with postgres_server() as server:
        await server.query("CREATE DATABASE peer")
        for name in parts:
            found += await PARTS[name](server, say, sizes)
    return report("log", found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make bench-log", description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS), metavar="PART")
    parser.add_argument("--scale", type=float, default=1.0, help="less than 1.0 for trying out")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    logs.configure("bench", level="ERROR")
    wanted = arguments.parts or list(PARTS)
    sys.exit(0 if asyncio.run(main(wanted, Sizes(arguments.scale))) else 1)
