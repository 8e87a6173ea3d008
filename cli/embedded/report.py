"""What ``up`` prints: addresses and the credentials of those who may only read, and the api key."""

from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from cli.embedded.layout import Layout
from cli.embedded.run_file import Run


def report(layout: Layout, run: Run) -> dict[str, Any]:
    """One JSON object, secrets included: for standard output, never for a log or a file."""
    facts = run.facts
    nats_password = layout.secret("nats_reader").read_text().strip()
    log_password = layout.secret("postgres_reader").read_text().strip()
    return {
        "api_url": facts["api_url"],
        "api_key": layout.secret("api_key").read_text().strip(),
        "nats_url": f"nats://reader:{nats_password}@127.0.0.1:{facts['nats_port']}",
        "log_dsn": with_password(str(facts["log_dsn"]), log_password),
        "endpoint_host": facts["endpoint_host"],
        "endpoint_ports": facts["endpoint_ports"],
        "pids": run.pids(),
        "supervisor": run.supervisor.pid,
        "dir": str(layout.dir),
    }


def with_password(dsn: str, password: str) -> str:
    """A DSN that any Postgres client takes: the driver's name is dropped, the password put in."""
    parts = urlsplit(dsn)
    user, _, place = parts.netloc.rpartition("@")
    scheme = parts.scheme.partition("+")[0]
    return urlunsplit(parts._replace(scheme=scheme, netloc=f"{user}:{quote(password)}@{place}"))
