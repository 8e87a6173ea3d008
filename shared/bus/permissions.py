"""Who may say and hear what on the bus, as a configuration of nats-server.

One list for the embedded server and for compose. Services publish under their own token and read
streams with direct gets: none may create, change or delete anything on the server, so there is no
consumer to lose and none to abuse. Recovery may make exactly the streams, durable and bucket that
the product has. Only ``reader`` may create consumers (on what it may read anyway), because stock
clients need them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.bus.streams import DURABLE_RECOVERY, KV_STREAM, KV_SUBJECT
from shared.subjects import (
    ALL_DEADLETTERS,
    ALL_EVENTS,
    STATE_CHANGED,
    STREAM_DEADLETTERS,
    STREAM_EVENTS,
    STREAM_INBOX,
)

ADMIN = "admin"
SERVICES = ("health", "sync", "recovery", "api")
READER = "reader"
USERS = (ADMIN, *SERVICES, READER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one user may publish and subscribe to; ``replies`` lets it answer what it was asked."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    replies: bool = False


def inbox_prefix(user: str) -> str:
    """Where answers to this user's requests arrive: nobody else may listen there."""
    return f"_INBOX_{user}"


def _api(*names: str) -> tuple[str, ...]:
    return tuple(f"$JS.API.{name}" for name in names)


_READ_EVENTS = _api(
    f"STREAM.INFO.{STREAM_EVENTS}",
    f"DIRECT.GET.{STREAM_EVENTS}",
    f"DIRECT.GET.{STREAM_EVENTS}.>",
)
_READ_STATE = _api(
    f"STREAM.INFO.{KV_STREAM}",
    f"DIRECT.GET.{KV_STREAM}",
    f"DIRECT.GET.{KV_STREAM}.>",
)


def _own(service: str) -> tuple[str, ...]:
    return (
        f"dumont.inbox.{service}.>",
        f"dumont.telemetry.{service}.>",
        f"dumont.deadletter.{service}",
    )


def _speaker(service: str, *, publish: tuple[str, ...], subscribe: tuple[str, ...]) -> Grant:
    return Grant(
        publish=(*_own(service), *publish, *_READ_EVENTS),
        subscribe=(f"{inbox_prefix(service)}.>", ALL_EVENTS, *subscribe),
    )


def _recovery() -> Grant:
    durable = f"{STREAM_INBOX}.{DURABLE_RECOVERY}"
    streams = (STREAM_EVENTS, STREAM_INBOX, STREAM_DEADLETTERS, KV_STREAM)
    return Grant(
        publish=(
            ALL_EVENTS,
            "dumont.telemetry.recovery.>",
            "dumont.deadletter.recovery",
            f"{KV_SUBJECT}.*",
            STATE_CHANGED,
            *_READ_EVENTS,
            *_READ_STATE,
            *_api(
                f"STREAM.INFO.{STREAM_INBOX}",
                f"STREAM.INFO.{STREAM_DEADLETTERS}",
                *(f"STREAM.CREATE.{name}" for name in streams),
                f"CONSUMER.INFO.{durable}",
                f"CONSUMER.CREATE.{durable}",
                f"CONSUMER.MSG.NEXT.{durable}",
            ),
            f"$JS.ACK.{durable}.>",
        ),
        subscribe=(
            f"{inbox_prefix('recovery')}.>",
            ALL_EVENTS,
            STATE_CHANGED,
            "dumont.certificates.*",
            "dumont.telemetry.>",
        ),
        replies=True,
    )


def _reader() -> Grant:
    readable = (STREAM_EVENTS, STREAM_DEADLETTERS, KV_STREAM)
    return Grant(
        publish=(
            *_READ_EVENTS,
            *_READ_STATE,
            *_api(
                "INFO",
                "STREAM.NAMES",
                "STREAM.LIST",
                f"STREAM.INFO.{STREAM_DEADLETTERS}",
                f"DIRECT.GET.{STREAM_DEADLETTERS}",
                f"DIRECT.GET.{STREAM_DEADLETTERS}.>",
            ),
            *(
                subject
                for stream in readable
                for subject in (
                    *_api(
                        f"CONSUMER.CREATE.{stream}",
                        f"CONSUMER.CREATE.{stream}.>",
                        f"CONSUMER.INFO.{stream}.>",
                        f"CONSUMER.MSG.NEXT.{stream}.>",
                    ),
                    f"$JS.ACK.{stream}.>",
                    f"$JS.FC.{stream}.>",
                )
            ),
        ),
        subscribe=(
            "_INBOX.>",
            f"{inbox_prefix(READER)}.>",
            ALL_EVENTS,
            ALL_DEADLETTERS,
            STATE_CHANGED,
            f"{KV_SUBJECT}.>",
            "dumont.telemetry.>",
        ),
    )


GRANTS: dict[str, Grant] = {
    "health": _speaker(
        "health",
        publish=("dumont.certificates.health", *_READ_STATE),
        subscribe=(STATE_CHANGED,),
    ),
    "sync": _speaker(
        "sync",
        publish=("dumont.certificates.sync", *_READ_STATE),
        subscribe=(STATE_CHANGED,),
    ),
    "api": _speaker("api", publish=_READ_STATE, subscribe=(STATE_CHANGED, "dumont.telemetry.>")),
    "recovery": _recovery(),
    READER: _reader(),
}
"""``admin`` is not in it: it may do everything, and only set-up uses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where a nats-server listens and keeps its streams; ``monitor`` is where it tells its health.

    With port -1 it takes a free one and writes it to a file in ``ports_dir``.

    ``passwords`` is a file that ``password_file`` wrote, by its path relative to the configuration
    (nats-server knows no other): the configuration itself holds no secret.
    """

    listen: str
    store: str
    passwords: str
    monitor: str = ""
    pid_file: str = ""
    ports_dir: str = ""

    def render(self) -> str:
        """The text of ``nats.conf``."""
        optional = [f"http: {self.monitor}"] if self.monitor else []
        optional += [f'pid_file: "{self.pid_file}"'] if self.pid_file else []
        optional += [f'ports_file_dir: "{self.ports_dir}"'] if self.ports_dir else []
        return "\n".join(
            [
                "# Generated from shared/bus/permissions.py: do not edit.",
                f'include "{self.passwords}"',
                "server_name: dumont",
                f"listen: {self.listen}",
                *optional,
                "max_payload: 1MB",
                'ping_interval: "5s"  # a client that fell silent is asked nothing any more',
                "ping_max: 2",
                "jetstream {",
                f'  store_dir: "{self.store}"',
                "  sync_interval: always  # an acknowledged message is on disk",
                "  max_memory_store: 64MB",
                "  max_file_store: 4GB",
                "}",
                "accounts {",
                "  DUMONT {",
                "    jetstream: enabled",
                "    users: [",
                f"      {{user: {ADMIN}, password: ${_variable(ADMIN)}}}",
                *(line for user, grant in GRANTS.items() for line in _user(user, grant)),
                "    ]",
                "  }",
                "}",
                "",
            ]
        )


def _user(user: str, grant: Grant) -> list[str]:
    return [
        f"      {{user: {user}, password: ${_variable(user)}, permissions: {{",
        f"        publish: {{allow: [{_quoted(grant.publish)}]}}",
        f"        subscribe: {{allow: [{_quoted(grant.subscribe)}]}}",
        *(["        allow_responses: true"] if grant.replies else []),
        "      }}",
    ]


def _quoted(subjects: tuple[str, ...]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)


def _variable(user: str) -> str:
    return f"DUMONT_NATS_{user.upper()}"


def password_file(passwords: Mapping[str, str]) -> str:
    """The text of the included file, one variable a user; keep it readable for the server alone.

    Raises ValueError for a password with characters that the file cannot hold.
    """
    lines = []
    for user in USERS:
        password = passwords[user]
        if not password or not password.isascii() or not password.isalnum():
            raise ValueError(f"password of NATS user {user}: use letters and digits only")
        lines.append(f'{_variable(user)}: "{password}"')
    return "\n".join([*lines, ""])
