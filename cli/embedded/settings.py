"""What ``up`` asked of an embedded stack, kept on file for its supervisor and the next start."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from cli.embedded.files import write_private
from cli.embedded.layout import Layout
from cli.errors import UsageError

LOOPBACK = "127.0.0.1"
REPLICABLE = frozenset({"recovery", "health"})
"""What may run more than once: held apart by a lease, or harmless. The api has one port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``installation`` begins the label of every machine that this stack rents.

    ``variables`` names further variables of the caller's environment that every service gets.
    """

    installation: str
    api_port: int
    nats_port: int
    postgres_port: int
    endpoint_ports: tuple[int, int]
    endpoint_host: str = LOOPBACK
    replicas: Mapping[str, int] = field(default_factory=dict)
    variables: tuple[str, ...] = ()


def write_settings(layout: Layout, settings: Settings) -> None:
    write_private(layout.settings_file, json.dumps(asdict(settings), indent=1) + "\n")


def read_settings(layout: Layout) -> Settings:
    """Raises FileNotFoundError, ValueError."""
    document = json.loads(layout.settings_file.read_text())
    try:
        first, last = document.pop("endpoint_ports")
        variables = tuple(document.pop("variables"))
        return Settings(endpoint_ports=(first, last), variables=variables, **document)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{layout.settings_file} is not of this version: {error}") from None


def parse_replicas(text: str) -> dict[str, int]:
    """``recovery=2,health=2`` as a mapping. Raises UsageError."""
    replicas = {}
    for part in filter(None, text.split(",")):
        service, _, count = part.partition("=")
        if service not in REPLICABLE:
            raise UsageError(
                f"--replicas: {service!r} runs once",
                f"more than one is possible of: {', '.join(sorted(REPLICABLE))}",
            )
        if not count.isdigit() or not 1 <= int(count) <= 9:
            raise UsageError(f"--replicas: {part!r} is not SERVICE=NUMBER", "1 to 9")
        replicas[service] = int(count)
    return replicas
