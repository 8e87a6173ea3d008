"""``dumont simulator``: the simulated clouds, with their own command line."""

import os
import sys

import typer


def simulator(ctx: typer.Context) -> None:
    """Serve simulated clouds with real machines to lose."""
    # A program of its own, which the product never imports: this process becomes it.
    argv = [sys.executable, "-m", "simulator", *ctx.args]
    os.execv(sys.executable, argv)  # noqa: S606
