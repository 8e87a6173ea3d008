"""``dumont demo``: the main job on this machine, in a minute, judged."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import target
from cli.demo.options import FAULTS, SABOTAGES, Options, checked
from cli.endpoint import require_tools
from cli.errors import FAILED, CliError
from cli.output import print_line

MIB = 1 << 20
ALONE_MIB, ALONE_SMALL_FILES = 256, 2000
FLEET_MIB, FLEET_SMALL_FILES = 4, 100


def demo(
    ctx: typer.Context,
    workspace: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Protect a copy of this directory [default: generated]."),
    ] = None,
    workspaces: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=99, help="So many, all losing their GPUs at once."),
    ] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running afterwards.")] = False,
    real_time: Annotated[
        bool,
        typer.Option("--real-time/--fast", help="The product's own intervals; takes minutes."),
    ] = False,
    json_line: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
    fault: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"One of: {', '.join(FAULTS)}.")
    ] = None,
    sabotage: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Must end with 1. One of: {', '.join(SABOTAGES)}."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="MB", min=1, help="Size of the generated big file [default: 256; many: 4]."
        ),
    ] = None,
    control_url: Annotated[
        str | None, typer.Option(help="The simulator's control port, with --url.")
    ] = None,
) -> None:
    """Lose a simulated GPU, keep working, get it back; exit code 0 if every promise held."""
    from cli.demo.run import run
    from cli.demo.show import Show

    where = target(ctx)
    options = checked(
        Options(
            workspace=workspace,
            workspaces=workspaces,
            keep=keep,
            real_time=real_time,
            fault=fault,
            sabotage=sabotage,
            big_file_bytes=(size or (FLEET_MIB if workspaces > 1 else ALONE_MIB)) * MIB,
            small_files=FLEET_SMALL_FILES if workspaces > 1 else ALONE_SMALL_FILES,
            control_url=control_url,
        )
    )
    require_tools("ssh", "ssh-keygen", "rsync")
    if where.url is None and "DUMONT_URL" not in where.env and os.geteuid() != 0:
        raise CliError(
            "the simulated machines need root: each is a namespace with an sshd of its own",
            "type: sudo make demo",
        )
    show = Show()
    result = asyncio.run(run(options, where, show))
    if json_line:
        print_line(result)
    else:
        show.verdict(result)
    if not result["ok"]:
        raise typer.Exit(FAILED)
