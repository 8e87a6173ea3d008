"""``dumont up`` and ``dumont down``: the whole product on this machine."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import Yes, target
from cli.connection import Target
from cli.embedded import control, run_file
from cli.embedded.layout import Layout
from cli.embedded.ports import parse_range
from cli.embedded.postgres import PostgresServer
from cli.embedded.report import report
from cli.embedded.settings import LOOPBACK, parse_replicas
from cli.errors import CliError, UsageError
from cli.messages import confirm, note
from cli.output import print_line

Dir = Annotated[
    Path | None, typer.Option(help="Its directory [default: /var/lib/dumont-failover, or yours].")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON line.")]


def up(
    ctx: typer.Context,
    *,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="On this machine, without containers.")
    ] = False,
    dir: Dir = None,
    replicas: Annotated[
        str, typer.Option(metavar="SERVICE=N,...", help="More than one of recovery or health.")
    ] = "",
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A variable for the services (repeat)."),
    ] = None,
    api_port: Annotated[int | None, typer.Option(min=1, max=65535)] = None,
    endpoint_ports: Annotated[
        str | None, typer.Option(metavar="FIRST-LAST", help="One port a workspace.")
    ] = None,
    endpoint_host: Annotated[
        str, typer.Option(help="Address that people reach workspaces at.")
    ] = LOOPBACK,
    timeout: Annotated[float, typer.Option(help="Seconds until everything must be ready.")] = 120.0,
    json_line: Json = False,
) -> None:
    """Start NATS, Postgres, HAProxy and the services; returns when all are ready."""
    if not embedded:
        raise UsageError(
            "only --embedded is started from here",
            "add --embedded; with containers: docker compose -f deploy/compose.yml up --wait",
        )
    layout = _layout(target(ctx), dir)
    variables = _variables(env or [])
    counts = parse_replicas(replicas)
    ports = None if endpoint_ports is None else parse_range(endpoint_ports)
    control.prepare_directory(layout)
    with control.command_lock(layout):
        run = control.running(layout)
        if run is not None:
            note(f"a stack already runs in {layout.dir}; to start it differently: dumont down")
            run = control.wait_ready(layout, timeout)
        else:
            control.end(layout)  # what a supervisor that was killed left behind
            control.require_space(layout, _database(layout).home)
            settings = control.choose_ports(
                layout, endpoint_host=endpoint_host, api_port=api_port, endpoint_ports=ports
            )
            settings = control.with_choices(settings, replicas=counts, variables=sorted(variables))
            supervisor = control.start(layout, settings, {**os.environ, **variables})
            run = _ready_or_ended(layout, supervisor, timeout)
    _print(layout, run, json_line)


def down(
    ctx: typer.Context,
    *,
    dir: Dir = None,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete its directory and database as well.")
    ] = False,
    yes: Yes = False,
    json_line: Json = False,
) -> None:
    """End exactly the processes that 'up' started. The data stays, unless --delete-data."""
    layout = _layout(target(ctx), dir)
    if delete_data:
        confirm(f"the log, the keys and all else in {layout.dir} is deleted for good", yes=yes)
    ended = 0
    if layout.dir.is_dir():
        with control.command_lock(layout):
            ended = control.end(layout)
            if delete_data:
                delete(layout)
    if json_line:
        print_line({"dir": str(layout.dir), "ended": ended, "deleted": delete_data})
        return
    note(f"ended {ended} processes" if ended else f"nothing runs in {layout.dir}")
    note("its data is deleted" if delete_data else f"its data stays in {layout.dir}")


def delete(layout: Layout) -> None:
    """Remove what ``up`` made. Raises UsageError for a directory that is not of its making."""
    if not layout.settings_file.exists():
        raise UsageError(f"{layout.dir} holds no stack", "nothing was deleted")
    # Under root the database may lie elsewhere, where its own account can reach it.
    _database(layout).remove()
    shutil.rmtree(layout.dir)


def _database(layout: Layout) -> PostgresServer:
    return PostgresServer(layout.postgres, port=0, passwords={})


def _layout(where: Target, dir: Path | None) -> Layout:
    return where.layout if dir is None else Layout.of(dir)


def _ready_or_ended(
    layout: Layout, supervisor: "subprocess.Popen[bytes]", timeout: float
) -> run_file.Run:
    """Half a stack helps nobody: when it does not become ready it is ended, its logs stay."""
    try:
        return control.wait_ready(layout, timeout, supervisor)
    except (CliError, KeyboardInterrupt):
        control.end(layout)
        raise


def _variables(pairs: list[str]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--env {pair!r} is not KEY=VALUE")
        variables[name] = value
    return variables


def _print(layout: Layout, run: run_file.Run, json_line: bool) -> None:
    facts = report(layout, run)
    if json_line:
        print_line(facts)
        return
    note(f"everything is up in {layout.dir}")
    note(f"  api        {facts['api_url']}  (key in {layout.secret('api_key')})")
    ports = facts["endpoint_ports"]
    note(f"  endpoints  {facts['endpoint_host']}, ports {ports[0]} to {ports[-1]}")
    note("next: dumont doctor; dumont workspace add NAME --from DIR")
