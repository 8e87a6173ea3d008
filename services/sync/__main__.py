"""python -m services.sync"""

import asyncio
import sys

from services.sync import bootstrap
from services.sync.settings import Settings
from shared import logs
from shared.bus.port import BusError
from shared.environment import SettingsError
from shared.runtime import run_until_stopped


async def main(settings: Settings) -> None:
    async with bootstrap.sync(settings) as sync:
        await run_until_stopped(sync.run(), failpoints=settings.failpoints)


if __name__ == "__main__":
    try:
        found = Settings.from_env()
        logs.configure("sync", level=found.log_level)
        asyncio.run(main(found))
    except (SettingsError, BusError) as error:
        sys.exit(f"dumont sync: {error}")
