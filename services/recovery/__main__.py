"""python -m services.recovery [setup]

``setup`` prepares log and bus once, before the services start, and is safe to repeat.
"""

import asyncio
import sys

from services.recovery import bootstrap
from services.recovery.adapters.authority import AuthorityError
from services.recovery.settings import Settings
from shared import logs
from shared.bus.port import BusError
from shared.environment import SettingsError
from shared.eventlog.port import LogRefusedError
from shared.runtime import run_until_stopped


async def main(settings: Settings) -> None:
    async with bootstrap.recovery(settings) as recovery:
        await run_until_stopped(recovery.run(), failpoints=settings.failpoints)


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["setup"]:
            from services.recovery import setup

            setup.main()
        elif sys.argv[1:]:
            sys.exit("usage: python -m services.recovery [setup]")
        else:
            found = Settings.from_env()
            logs.configure("recovery", level=found.log_level)
            asyncio.run(main(found))
    except (SettingsError, BusError, LogRefusedError, AuthorityError) as error:
        sys.exit(f"dumont recovery: {error}")
