"""Moments as people type them."""

import re
from datetime import datetime, timedelta

from cli.errors import CliError

_AGE = re.compile(r"(\d{1,6}) ?([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment(given: str, now: datetime) -> datetime:
    """A past moment: an age before ``now`` such as ``90m``, or ISO 8601.

    Without a time zone it is in that of this machine. Raises CliError.
    """
    hint = "give an age such as 90s, 30m, 2h or 3d, or a past time such as 2026-01-31T08:00"
    if age := _AGE.fullmatch(given.strip()):
        return now - timedelta(seconds=int(age[1]) * _SECONDS[age[2]])
    try:
        named = datetime.fromisoformat(given.strip())
    except ValueError:
        raise CliError(f"{given!r} is no moment", hint) from None
    named = named if named.tzinfo else named.astimezone()
    if named >= now:
        raise CliError(f"{given!r} is not over yet", hint)
    return named
