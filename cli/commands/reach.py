"""Verbs that bring people into a workspace, wherever it is at the moment."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import Name, checked_name, target
from cli.connection import Target
from cli.endpoint import Access, access, endpoint_of, require_tools
from cli.errors import CliError

Identity = Annotated[
    Path | None,
    typer.Option("--identity", "-i", help="Private key [default: the one that dumont made]."),
]


def ssh(
    ctx: typer.Context,
    name: Name,
    command: Annotated[
        list[str] | None, typer.Argument(help="What to run there [default: a shell].")
    ] = None,
    identity: Identity = None,
) -> None:
    """Log in through the workspace's stable address; the host's identity is checked."""
    require_tools("ssh")
    argv = _access(target(ctx), name, identity).ssh_argv(*(command or []))
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606  ssh is what the person wants to be in now


def ssh_config(ctx: typer.Context, name: Name, identity: Identity = None) -> None:
    """Print a Host block for ~/.ssh/config, with which no switch ever warns."""
    sys.stdout.write(_access(target(ctx), name, identity).ssh_config())


def _access(where: Target, name: str, identity: Path | None) -> Access:
    workspace = checked_name(name)

    async def state() -> dict[str, object]:
        async with where.api() as api:
            return await api.workspace(workspace)

    endpoint = endpoint_of(asyncio.run(state()))
    if endpoint is None:
        raise CliError(f"{name} has no endpoint yet", f"see: dumont status {name}")
    return access(where.layout, endpoint, identity)
