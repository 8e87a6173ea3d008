"""python -m services.api"""

import asyncio
import sys

from services.api import bootstrap
from services.api.settings import Settings
from shared import logs
from shared.bus.port import BusError
from shared.environment import SettingsError
from shared.eventlog.port import LogRefusedError


def main() -> None:
    """Serve until SIGTERM. Ends with one clear line when the set-up is wrong."""
    settings = Settings.from_env()
    logs.configure("api", level=settings.log_level)
    refusal = ""
    try:
        asyncio.run(bootstrap.run(settings))
    except* LogRefusedError as group:
        refusal = str(group.exceptions[0])
    if refusal:
        sys.exit(f"dumont api: {refusal}")


if __name__ == "__main__":
    try:
        main()
    except (SettingsError, BusError, OSError) as error:
        sys.exit(f"dumont api: {error}")
