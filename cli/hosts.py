"""``user@host:port`` of a host of the user's own."""

from cli.errors import UsageError

PORT = 22
USER = "root"


def checked_host(text: str) -> str:
    """``root@gpu.example:22`` or ``[2001:db8::1]:22`` with user and port filled in.

    Raises UsageError.
    """
    user, _, place = text.rpartition("@")
    if place.startswith("["):
        address, _, rest = place.partition("]")
        address, port = f"{address}]", rest.removeprefix(":") or str(PORT)
    else:
        address, _, port = place.partition(":")
        port = port or str(PORT)
    if not address.strip("[]") or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UsageError(f"{text!r} is not a host", "give it as user@host:port")
    return f"{user or USER}@{address}:{port}"
