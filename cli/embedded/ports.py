"""Which TCP ports an embedded stack uses: those that were given, or free ones that it keeps.

Free ports are looked for below the range that the kernel takes for outgoing connections, so
that no connection of somebody else can sit on them when they are to be bound.
"""

import errno
import random
import socket
from collections.abc import Sequence

from cli.errors import CliError, UsageError

_FIRST, _LAST = 20_000, 31_999
_TRIES = 200


def parse_range(text: str) -> tuple[int, int]:
    """``20000-20009`` (or one port) as first and last. Raises UsageError."""
    first, _, last = text.partition("-")
    try:
        ports = int(first), int(last or first)
    except ValueError:
        raise UsageError(f"{text!r} is not a range of ports", "give it as 20000-20009") from None
    if not 1 <= ports[0] <= ports[1] <= 65535:
        raise UsageError(f"{text!r} is not a range of ports", "1 to 65535, the smaller first")
    return ports


def is_free(host: str, port: int) -> bool:
    """Whether somebody could listen there now.

    Raises UsageError for a host that is no address of this machine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise _not_here(host) from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise _not_here(host) from None
            return False
    return True


def _not_here(host: str) -> UsageError:
    return UsageError(f"{host} is no address of this machine", "see those it has: ip address")


def require_free(host: str, ports: Sequence[int], option: str) -> None:
    """Raises CliError that names the first port that is taken."""
    for port in ports:
        if not is_free(host, port):
            raise CliError(
                f"port {port} on {host} is in use",
                f"see who has it with 'ss -ltnp sport = :{port}', or choose others with {option}",
            )


def free_block(host: str, count: int, *, avoid: Sequence[int] = ()) -> int:
    """The first of ``count`` free ports in a row. Raises CliError."""
    choice = random.SystemRandom()
    for _ in range(_TRIES):
        first = choice.randrange(_FIRST, _LAST - count)
        block = range(first, first + count)
        if not set(block) & set(avoid) and all(is_free(host, port) for port in block):
            return first
    raise CliError(f"found no {count} free ports in a row between {_FIRST} and {_LAST}")
