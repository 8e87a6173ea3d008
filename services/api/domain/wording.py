"""Numbers and times as a person reads them; data keeps the plain numbers."""

from datetime import UTC, datetime

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Bytes in decimal units: ``268.4 MB``."""
    value, unit = float(count), _BYTE_UNITS[0]
    for unit in _BYTE_UNITS:
        if abs(value) < 1000 or unit == _BYTE_UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def span(seconds: float) -> str:
    """A duration: ``1.2 s``, ``4 min 10 s``, ``3 h 5 min``, ``2 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return _pair(minutes, "min", rest, "s")
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return _pair(hours, "h", minutes, "min")
    return _pair(hours // 24, "d", hours % 24, "h")


def _pair(major: int, big: str, minor: int, small: str) -> str:
    return f"{major} {big} {minor} {small}" if minor else f"{major} {big}"


def count(number: int, thing: str, things: str = "") -> str:
    """``1 file``, ``2,000 files``."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def price(dollars: float) -> str:
    """US dollars an hour, to a tenth of a cent where that matters."""
    text = f"{dollars:.3f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"${whole}.{part.ljust(2, '0')}/h"


def clock(moment: datetime) -> str:
    """The time of day, in UTC."""
    return moment.astimezone(UTC).strftime("%H:%M:%S UTC")


def iso(moment: datetime) -> str:
    """For data, not for sentences: ISO 8601 in UTC, the one spelling of all our JSON."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def generation(identity: str) -> str:
    """``e000003-00000017`` as ``3-17``; any other name as it is."""
    epoch, _, sequence = identity.partition("-")
    if epoch[:1] == "e" and epoch[1:].isdigit() and sequence.isdigit():
        return f"{int(epoch[1:])}-{int(sequence)}"
    return identity or "none"
