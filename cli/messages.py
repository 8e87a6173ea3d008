"""Talk, on standard error: it never mixes with the data on standard output."""

import sys

from cli.errors import UsageError


def note(text: str) -> None:
    """Talk: one line for a person, on standard error."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """Text from elsewhere without the control characters that would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def confirm(what: str, *, yes: bool) -> None:
    """Ask before something changes. Raises UsageError when there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{what}: nobody is here to confirm it", "add --yes")
    sys.stderr.write(f"{printable(what)}. Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise UsageError("not confirmed: nothing was done")
