"""Numbers and times as people read them. Pure."""

from datetime import datetime

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float | None) -> str:
    """Bytes in decimal units: ``1.2 GB``."""
    if count is None:
        return "-"
    value = float(count)
    for unit in _UNITS[:-1]:
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {_UNITS[-1]}"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units: ``3m 20s``, ``2d 4h``; fractions below ten seconds."""
    if seconds is None:
        return "-"
    if abs(seconds) < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m")]
    parts.append((whole % 60, "s"))
    while len(parts) > 1 and not parts[0][0]:
        parts = parts[1:]
    return " ".join(f"{value}{unit}" for value, unit in parts[:2])


def ago(then: datetime | None, now: datetime) -> str:
    return "never" if then is None else f"{duration(max(0.0, (now - then).total_seconds()))} ago"


def price(dollars: float | None) -> str:
    return "-" if dollars is None else f"${dollars:.3f}/h"


def when(text: object) -> datetime | None:
    """An ISO 8601 time of the api, None when it is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def clock(text: object) -> str:
    """An ISO 8601 time as local HH:MM:SS.mmm, for tables of one incident."""
    moment = when(text)
    return "-" if moment is None else moment.astimezone().strftime("%H:%M:%S.%f")[:-3]
