"""``dumont log``: the event log itself."""

import asyncio

import typer

from cli.commands.options import Output, target
from cli.connection import Log
from cli.fromlog import silent_log
from cli.messages import note
from cli.output import Format, print_json, print_table
from shared.eventlog.port import LogUnknownError
from shared.eventlog.reader import PostgresReader
from shared.eventlog.verify import Finding
from shared.eventlog.verify import verify as verify_log


def verify(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Read the whole log: is every event there, in order, and as it was recorded? Exit 1 if not."""
    findings, head = asyncio.run(_verify(target(ctx).log()))
    if output is Format.JSON:
        wrong = [{"position": finding.position, "what": finding.what} for finding in findings]
        print_json({"ok": not findings, "events": head, "findings": wrong})
    elif findings:
        print_table(
            ("POSITION", "WHAT IS WRONG"), [(str(f.position), f.what) for f in findings], empty=""
        )
    else:
        note(f"the log is whole: {head} events, versions and hash chain fit")
    if findings:
        raise typer.Exit(1)


async def _verify(log: Log) -> tuple[list[Finding], int]:
    try:
        async with PostgresReader(log.dsn, log.password) as reader:
            return await verify_log(reader), await reader.head()
    except LogUnknownError as error:
        raise silent_log(error) from None
