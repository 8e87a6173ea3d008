"""``dumont sim``: the simulation lab, with its own command line."""

import os
import sys

import typer


def sim(ctx: typer.Context) -> None:
    """Play seeds of the simulation lab: --seed S, --seeds N, --hours H, --story."""
    # It runs all services in one process, so the command line does not import it: it becomes it.
    argv = [sys.executable, "-m", "lab", "sim", *ctx.args]
    os.execv(sys.executable, argv)  # noqa: S606
