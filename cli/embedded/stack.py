"""What an embedded stack consists of: its children and their environments, as data."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cli.embedded.child import Child
from cli.embedded.control import PROJECT
from cli.embedded.files import secret
from cli.embedded.haproxy import HaproxyServer
from cli.embedded.layout import Layout
from cli.embedded.nats import NatsServer
from cli.embedded.postgres import ROLES, PostgresServer
from cli.embedded.processes import MARK
from cli.embedded.settings import LOOPBACK, Settings
from shared.bus.permissions import ADMIN, SERVICES, USERS

_PROVIDER = frozenset(
    {
        "DUMONT_VAST_URL",
        "DUMONT_GCE_URL",
        "DUMONT_GCE_PROJECT",
        "DUMONT_GCE_ZONES",
        "DUMONT_GCE_SSH_PORT",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "CLOUDSDK_CONFIG",
    }
)
PROVIDER_VARIABLES: Mapping[str, frozenset[str]] = {
    "recovery": _PROVIDER
    | {"DUMONT_VAST_API_KEY", "DUMONT_VAST_API_KEY_FILE"}
    | {"DUMONT_NOTICE_URL", "DUMONT_NOTICE_URL_FILE"},
    "health": _PROVIDER | {"DUMONT_VAST_READ_KEY", "DUMONT_VAST_READ_KEY_FILE"},
}
"""Who may know how to reach the providers, and people. Recovery alone gets the key that can spend,
and the webhook."""

_OF_PROVIDERS = frozenset[str]().union(*PROVIDER_VARIABLES.values())
_ORDINARY = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "LC_ALL",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "https_proxy",
        "http_proxy",
        "no_proxy",
    }
)
_NOT_FOR_SERVICES = frozenset(
    {"DUMONT_URL", "DUMONT_DIR", "DUMONT_API_KEY", "DUMONT_API_KEY_FILE", MARK}
)
"""What the caller's environment says to the client verbs, not to the stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The children in the order of their dependence, and what is worth knowing about the stack."""

    children: Sequence[Child]
    facts: Mapping[str, object]


def plan(layout: Layout, settings: Settings, environ: Mapping[str, str]) -> Plan:
    """Everything that is to run. Makes the secrets that do not exist yet. Raises OSError."""
    secret(layout.secret("api_key"), prefix="dk_")
    servers = Servers.of(layout, settings)
    services = []
    for service in SERVICES:
        env = {
            **inherited(environ, service),
            **servers.environment(layout, settings, service),
            **asked_for(environ, service, settings.variables),
        }
        for replica in range(1, settings.replicas.get(service, 1) + 1):
            services.append(_service(layout, service, replica, env))
    children = (*servers.children(layout, environ), *services)
    first, last = settings.endpoint_ports
    facts: dict[str, object] = {
        "api_url": f"http://{LOOPBACK}:{settings.api_port}",
        "endpoint_host": settings.endpoint_host,
        "endpoint_ports": list(range(first, last + 1)),
        "nats_port": settings.nats_port,
        "postgres_port": settings.postgres_port,
        "log_dsn": servers.postgres.dsn("reader", socket=False),
        "children": [child.name for child in children],
    }
    return Plan(children=children, facts=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The three programs of others that the services stand on."""

    nats: NatsServer
    postgres: PostgresServer
    haproxy: HaproxyServer

    @classmethod
    def of(cls, layout: Layout, settings: Settings) -> "Servers":
        first, last = settings.endpoint_ports
        return cls(
            nats=NatsServer(
                layout.nats,
                port=settings.nats_port,
                passwords={user: secret(layout.secret(f"nats_{user}")) for user in USERS},
            ),
            postgres=PostgresServer(
                layout.postgres,
                port=settings.postgres_port,
                passwords={role: secret(layout.secret(f"postgres_{role}")) for role in ROLES},
            ),
            haproxy=HaproxyServer(
                layout.haproxy, ports=range(first, last + 1), bind=settings.endpoint_host
            ),
        )

    def children(self, layout: Layout, environ: Mapping[str, str]) -> list[Child]:
        """The servers, and the set-up that makes schema and streams before any service starts."""
        nats, postgres, haproxy = self.nats, self.postgres, self.haproxy
        return [
            Child(
                name="nats",
                service="nats",
                argv=lambda: nats.argv,
                env=nats.env,
                prepare=nats.prepare,
                ready=nats.ready,
                stuck=nats.stuck,
                stop_signal=nats.stop_signal,
                user=nats.user,
            ),
            Child(
                name="postgres",
                service="postgres",
                # Known only when prepared: the programs may have to be copied first.
                argv=lambda: postgres.argv,
                env=postgres.env,
                prepare=postgres.prepare,
                ready=postgres.ready,
                stop_signal=postgres.stop_signal,
                user=postgres.user,
            ),
            Child(
                name="haproxy",
                service="haproxy",
                argv=lambda: haproxy.argv,
                prepare=haproxy.prepare,
                ready=haproxy.ready,
            ),
            Child(
                name="setup",
                service="setup",
                argv=lambda: (sys.executable, "-m", "services.recovery", "setup"),
                env={
                    **inherited(environ, "setup"),
                    **self._bus(layout, ADMIN),
                    "DUMONT_OWNER_DSN": postgres.dsn("owner"),
                    "DUMONT_OWNER_PASSWORD_FILE": str(layout.secret("postgres_owner")),
                },
                # It is patient: its own start takes as long as that of the servers it needs.
                once=True,
            ),
        ]

    def environment(self, layout: Layout, settings: Settings, service: str) -> dict[str, str]:
        """Where a service finds the servers, and the credentials that are its own."""
        environment = self._bus(layout, service)
        if service in {"recovery", "api"}:
            environment |= {
                "DUMONT_LOG_DSN": self.postgres.dsn(service),
                "DUMONT_LOG_PASSWORD_FILE": str(layout.secret(f"postgres_{service}")),
                "DUMONT_ENDPOINT_HOST": settings.endpoint_host,
            }
        if service == "recovery":
            first, last = settings.endpoint_ports
            environment |= {
                "DUMONT_HAPROXY_SOCKET": str(self.haproxy.socket),
                "DUMONT_ENDPOINT_PORTS": f"{first}-{last}",
                "DUMONT_KEYS_DIR": str(layout.keys),
            }
        if service == "api":
            environment |= {
                "DUMONT_API_HOST": LOOPBACK,
                "DUMONT_API_PORT": str(settings.api_port),
                "DUMONT_API_KEY_FILE": str(layout.secret("api_key")),
            }
        return environment

    def _bus(self, layout: Layout, user: str) -> dict[str, str]:
        return {
            "DUMONT_NATS_URL": self.nats.url,
            "DUMONT_NATS_USER": user,
            "DUMONT_NATS_PASSWORD_FILE": str(layout.secret(f"nats_{user}")),
        }


def inherited(environ: Mapping[str, str], service: str) -> dict[str, str]:
    """What a service gets of the caller's environment: the ordinary, the product's own settings,
    and of what concerns the providers only what this service may know.
    """
    names = [name for name in environ if name in _ORDINARY or name.startswith("DUMONT_")]
    names += [name for name in _PROVIDER if name in environ]
    chosen = {name: environ[name] for name in names if name not in _NOT_FOR_SERVICES}
    chosen = {name: value for name, value in chosen.items() if _may_know(service, name)}
    return {**chosen, "PYTHONPATH": PROJECT, "PYTHONUNBUFFERED": "1"}


def asked_for(environ: Mapping[str, str], service: str, variables: Sequence[str]) -> dict[str, str]:
    """The variables that ``up --env`` named: they win over ours, but no key goes further."""
    return {name: environ[name] for name in variables if _may_know(service, name)}


def _may_know(service: str, name: str) -> bool:
    return name not in _OF_PROVIDERS or name in PROVIDER_VARIABLES.get(service, frozenset())


def _service(layout: Layout, service: str, replica: int, env: Mapping[str, str]) -> Child:
    name = f"{service}-{replica}"
    ready: Path = layout.ready / name
    return Child(
        name=name,
        service=service,
        argv=lambda: (sys.executable, "-m", f"services.{service}"),
        # Under its own name a process that was killed takes its writer lease back at once.
        env={**env, "DUMONT_READY_FILE": str(ready), "DUMONT_REPLICA": name},
        prepare=partial(ready.unlink, missing_ok=True),
        ready=ready.exists,
        # The servers are named although set-up needs them too: they are to end after this one.
        after=("nats", "postgres", "haproxy", "setup"),
    )
