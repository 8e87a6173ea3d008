"""``dumont doctor``: is everything there, and if not, what to type."""

import asyncio
import os
from urllib.parse import urlsplit

import typer

from cli import doctor as checks
from cli.client import Json
from cli.commands.options import Output, target
from cli.connection import Target, read_run
from cli.doctor import Finding, Health, failed, ok, warning
from cli.embedded.processes import alive
from cli.errors import CliError
from cli.messages import note
from cli.output import Format, print_json, print_table

_MARKS = {Health.OK: "✓", Health.WARNING: "!", Health.FAILED: "✗"}


def doctor(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Check this machine, the providers' keys and the running stack; exit 1 when it will not do."""
    where = target(ctx)
    findings = [] if not _embedded(where) else checks.machine(where.layout.dir) + _servers(where)
    findings += asyncio.run(_api(where))
    if output is Format.JSON:
        print_json(
            [
                {"check": f.name, "health": f.health, "detail": f.detail, "hint": f.hint}
                for f in findings
            ]
        )
    else:
        rows = [(_MARKS[f.health], f.name, f.detail) for f in findings]
        print_table(("", "CHECK", "FOUND"), rows, empty="")
        for finding in findings:
            if finding.hint:
                note(f"{_MARKS[finding.health]} {finding.name}: {finding.hint}")
    if any(finding.health is Health.FAILED for finding in findings):
        raise typer.Exit(1)


def _embedded(where: Target) -> bool:
    return not (where.url or where.env.get("DUMONT_URL"))


def _servers(where: Target) -> list[Finding]:
    """The servers of the embedded stack, if one is meant to run."""
    run = read_run(where.layout)
    if run is None:
        none = warning("stack", f"none runs in {where.layout.dir}", "dumont up --embedded")
        return [*checks.providers(os.environ), none]
    found = []
    if not alive(run.supervisor):
        found.append(failed("stack", "its supervisor is gone", "dumont up --embedded"))
    else:
        found.append(ok("stack", f"supervisor {run.supervisor.pid} in {where.layout.dir}"))
    for name in ("nats", "postgres"):
        found.append(checks.reachable(name, "127.0.0.1", int(str(run.facts[f"{name}_port"]))))
    for name, child in run.children.items():
        if not child.ready:
            log = where.layout.log(name)
            found.append(failed(name, "is not ready", f"see {log}"))
        elif child.restarts:
            found.append(warning(name, f"ready, was restarted {child.restarts} times"))
    return found


async def _api(where: Target) -> list[Finding]:
    try:
        connection = where.connection()
        async with where.api() as api:
            ready = await api.ready()
    except CliError as error:
        silent = failed("api", str(error), error.hint)
        return [] if _embedded(where) and read_run(where.layout) is None else [silent]
    place = urlsplit(connection.url).netloc
    found = [ok("api", f"answers at {place}"), _part("event log", ready, "log", "it reads the log")]
    found.append(_part("bus", ready, "bus", "it is connected to NATS"))
    for name, there in (ready.get("configured") or {}).items():
        found.append(
            ok(name, "configured") if there else warning(name, *NOT_CONFIGURED.get(name, NO_KEY))
        )
    return found


NO_KEY = ("not configured", "see the variables of the recovery service")
NOT_CONFIGURED = {
    "vast": (
        "no key: no GPU can be rented",
        "set DUMONT_VAST_API_KEY and DUMONT_VAST_READ_KEY (or ..._FILE) for the stack",
    ),
    "gce": (
        "no project: no standby can be created",
        "set DUMONT_GCE_PROJECT and Google credentials, or bring hosts of your own (--standby)",
    ),
}


def _part(name: str, ready: Json, key: str, good: str) -> Finding:
    if ready.get(key):
        return ok(name, f"the api says that {good}")
    return failed(name, "the api does not reach it", "see the logs of the api and of the server")
