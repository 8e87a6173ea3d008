"""python -m services.health"""

import asyncio
import sys

from services.health import bootstrap
from services.health.settings import Settings
from shared import logs
from shared.bus.port import BusError
from shared.environment import SettingsError
from shared.runtime import run_until_stopped


async def main(settings: Settings) -> None:
    async with bootstrap.health(settings) as health:
        await run_until_stopped(health.run(), failpoints=settings.failpoints)


if __name__ == "__main__":
    try:
        found = Settings.from_env()
        logs.configure("health", level=found.log_level)
        asyncio.run(main(found))
    except (SettingsError, BusError) as error:
        sys.exit(f"dumont health: {error}")
