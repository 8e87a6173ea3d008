"""``dumont log``: the event log itself."""

import asyncio
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import Output, Yes, target
from cli.connection import Log
from cli.embedded import stack
from cli.embedded.settings import read_settings
from cli.errors import UsageError
from cli.fromlog import silent_log
from cli.messages import confirm, note
from cli.output import Format, print_json, print_table
from shared.eventlog.heads import ExportedHead, parse
from shared.eventlog.port import LogUnknownError
from shared.eventlog.reader import PostgresReader
from shared.eventlog.verify import Finding
from shared.eventlog.verify import verify as verify_log

Heads = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        metavar="FILE|POSITION:HASH",
        help="A head that was exported: the log must still contain it. Can be given again.",
    ),
]


def verify(ctx: typer.Context, head: Heads = None, output: Output = Format.TABLE) -> None:
    """Read the whole log: is every event there, in order, and as it was recorded? Exit 1 if not.

    Whoever may change everything in the database can make a log that fits in itself; he cannot
    change the heads that recovery exported (DUMONT_HEAD_FILE, /readyz): hold the log against them.
    """
    exported = [found for given in head or [] for found in _heads(given)]
    findings, last = asyncio.run(_verify(target(ctx).log(), exported))
    if output is Format.JSON:
        wrong = [{"position": finding.position, "what": finding.what} for finding in findings]
        print_json({"ok": not findings, "events": last, "findings": wrong})
    elif findings:
        print_table(
            ("POSITION", "WHAT IS WRONG"), [(str(f.position), f.what) for f in findings], empty=""
        )
    else:
        kept = f", and so do {len(exported)} exported heads" if exported else ""
        note(f"the log is whole: {last} events, versions and hash chain fit{kept}")
    if findings:
        raise typer.Exit(1)


def mend(ctx: typer.Context, *, yes: Yes = False) -> None:
    """Append to a log that is an old copy what the bus still holds of it (embedded stack)."""
    where = target(ctx)
    where.running()
    confirm(f"what the bus holds is appended to the log of {where.layout.dir}", yes=yes)
    plan = stack.plan(where.layout, read_settings(where.layout), where.env)
    recovery = next(child for child in plan.children if child.service == "recovery")
    done = subprocess.run([*recovery.argv(), "mend"], env={**recovery.env}, check=False)
    if done.returncode != 0:
        raise typer.Exit(1)


def _heads(given: str) -> list[ExportedHead]:
    """Of a file with one a line, or of the text itself. Raises UsageError."""
    file = Path(given)
    try:
        lines = file.read_text().splitlines() if file.is_file() else [given]
        return [parse(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        hint = "give a file that recovery wrote, or POSITION:HASH as /readyz shows it"
        raise UsageError(f"--head {given}: {error}", hint) from None


async def _verify(log: Log, heads: Sequence[ExportedHead]) -> tuple[list[Finding], int]:
    try:
        async with PostgresReader(log.dsn, log.password) as reader:
            return await verify_log(reader, heads=heads), await reader.head()
    except LogUnknownError as error:
        raise silent_log(error) from None
