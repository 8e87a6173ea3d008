"""The load balancer's configuration, from one generator for every way to run the product.

It holds no address of any host: each server starts in maintenance and leads nowhere until
recovery, which alone knows who is primary, says so over the runtime socket. So a load balancer
that was restarted serves nobody until told, never an old primary. Listeners cannot be added at
run time: the ports are a pool declared beforehand.
"""

from collections.abc import Sequence

SERVER = "primary"
"""The one server of every backend."""

NOWHERE = ("127.0.0.1", 1)
"""What a server leads to that nobody has pointed anywhere; always in maintenance beside it."""

_BACKEND_PREFIX = "ws_"

_HEAD = """\
global
    # One thread: commands of the runtime socket then run between sessions, never beside one
    # that is just choosing its server.
    nbthread 1
    maxconn {maxconn}
    stats socket {runtime}
    stats timeout 1m
    # A reload must not leave an old process that still carries sessions to an old primary.
    hard-stop-after 100ms
    log stderr format raw local0 notice

defaults
    mode tcp
    log global
    timeout connect 5s
    timeout queue 1s
    # People's shells may idle for long; the keep-alives of TCP and of sshd find the dead ones.
    timeout client 24h
    timeout server 24h
    timeout tunnel 24h
    timeout client-fin 30s
    timeout server-fin 30s
    option clitcpka
    option srvtcpka
    # Never a second try at a server that the runtime socket may have changed in between.
    retries 0
"""

_PORT = """
listen {name}
    bind {bind}:{port}
    server {server} {address}:{nowhere} disabled on-marked-down shutdown-sessions
"""


def backend_name(port: int) -> str:
    """The name of the frontend and backend pair that listens on ``port``."""
    return f"{_BACKEND_PREFIX}{port}"


def backend_port(name: str) -> int | None:
    """The port of a backend of ours; None for a name that is not ours."""
    digits = name.removeprefix(_BACKEND_PREFIX)
    if digits == name or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)


def haproxy_config(
    *,
    ports: Sequence[int],
    runtime: str,
    bind: str = "*",
    runtime_mode: int = 0o600,
    maxconn: int = 1000,
) -> str:
    """The whole ``haproxy.cfg``.

    ``ports`` is the pool of endpoint ports, ``bind`` the local address they listen on.
    ``runtime`` is where the runtime socket is: an absolute path (made with ``runtime_mode``) or
    ``host:port``, which must be reachable by recovery alone: whoever speaks to it leads people
    where he likes.
    """
    if runtime.startswith("/"):
        runtime = f"{runtime} mode {runtime_mode:03o} level admin"
    else:
        runtime = f"ipv4@{runtime} level admin"
    parts = [_HEAD.format(runtime=runtime, maxconn=maxconn)]
    parts += [
        _PORT.format(
            name=backend_name(port),
            bind=bind,
            port=port,
            server=SERVER,
            address=NOWHERE[0],
            nowhere=NOWHERE[1],
        )
        for port in ports
    ]
    return "".join(parts)
