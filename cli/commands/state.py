"""``dumont state``: what the api says, or what the log itself says without it."""

import asyncio
from typing import Annotated

import typer

from cli.client import Json
from cli.commands.options import Name, checked_name, target
from cli.fromlog import state_from_log
from cli.output import print_json


def state(
    ctx: typer.Context,
    name: Name,
    from_log: Annotated[
        bool, typer.Option("--from-log", help="Fold the log from nothing, without the api.")
    ] = False,
) -> None:
    """The state of a workspace as JSON: what the api says, or what the log itself says."""
    where = target(ctx)
    workspace = checked_name(name)

    async def ask() -> Json:
        async with where.api() as api:
            return await api.workspace(workspace)

    print_json(asyncio.run(state_from_log(where, workspace) if from_log else ask()))
