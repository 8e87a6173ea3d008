"""python -m services.recovery [setup | mend]

``setup`` prepares log and bus once, before the services start, and is safe to repeat. ``mend``
brings an old copy of the log up to what the bus holds: see the runbook before you use it.
"""

import asyncio
import sys

from services.recovery import bootstrap
from services.recovery.adapters.authority import AuthorityError
from services.recovery.mend import CannotMendError
from services.recovery.settings import Settings
from shared import logs
from shared.bus.port import BusError
from shared.environment import SettingsError
from shared.eventlog.port import LogRefusedError, LogUnknownError
from shared.runtime import run_until_stopped

REFUSALS = (
    SettingsError,
    BusError,
    LogRefusedError,
    LogUnknownError,
    AuthorityError,
    CannotMendError,
)
"""What one line says better than a traceback."""


async def main(settings: Settings) -> None:
    async with bootstrap.recovery(settings) as recovery:
        await run_until_stopped(recovery.run(), failpoints=settings.failpoints)


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["setup"]:
            from services.recovery import setup

            setup.main()
        elif sys.argv[1:] == ["mend"]:
            count = asyncio.run(bootstrap.mend_log(Settings.from_env()))
            print(f"{count} events appended", file=sys.stderr)
        elif sys.argv[1:]:
            sys.exit("usage: python -m services.recovery [setup | mend]")
        else:
            found = Settings.from_env()
            logs.configure("recovery", level=found.log_level)
            asyncio.run(main(found))
    except REFUSALS as error:
        sys.exit(f"dumont recovery: {error}")
