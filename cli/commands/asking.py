"""Verbs that ask for something: each says what will happen, asks first, and waits."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import typer

from cli.client import Json
from cli.commands.options import Name, Reason, Yes, checked_name, target
from cli.connection import Target
from cli.errors import CliError
from cli.messages import confirm, note
from cli.moments import moment

WAIT_SECONDS = 120.0
LONG_WAIT_SECONDS = 3600.0

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]

DataLoss = Annotated[
    bool,
    typer.Option("--allow-data-loss", help="Also when the copy is older than the policy allows."),
]


Before = Annotated[
    str,
    typer.Option(
        "--before",
        metavar="TIME",
        help="Serve the newest copy from before TIME: an age such as 90m, or 2026-01-31T08:00.",
    ),
]


def failover(
    ctx: typer.Context,
    name: Name,
    yes: Yes = False,
    reason: Reason = "",
    wait: Wait = True,
    allow_data_loss: DataLoss = False,
    before: Before = "",
) -> None:
    """Give the GPU up and let the standby serve. What was written since the last sync is lost.

    With --before it serves the newest copy from before that moment: for data that was spoilt. It is
    refused, and nothing given up, when there is no such copy.
    """
    data = (
        "with the copy that it has, however old" if allow_data_loss else "with the last sync's data"
    )
    more: dict[str, object] = {"allow_data_loss": True} if allow_data_loss else {}
    if before:
        asked = moment(before, datetime.now().astimezone())
        more["before"] = asked.isoformat()
        data = f"with the newest copy from before {asked:%Y-%m-%d %H:%M:%S %Z}"
    request = Request("failover", name, f"{name} moves to its standby, {data}", more)
    _ask(target(ctx), request, yes=yes, reason=reason, wait=WAIT_SECONDS if wait else None)


def recover(
    ctx: typer.Context, name: Name, yes: Yes = False, reason: Reason = "", wait: Wait = False
) -> None:
    """Search for a GPU, rent it, restore onto it and go back to it."""
    request = Request("recover", name, f"a GPU is rented for {name}, within its price limit")
    _ask(target(ctx), request, yes=yes, reason=reason, wait=LONG_WAIT_SECONDS if wait else None)


def failback(
    ctx: typer.Context, name: Name, yes: Yes = False, reason: Reason = "", wait: Wait = False
) -> None:
    """Return to the GPU that has been restored."""
    request = Request("failback", name, f"{name} goes back to a GPU; nobody can write meanwhile")
    _ask(target(ctx), request, yes=yes, reason=reason, wait=LONG_WAIT_SECONDS if wait else None)


def pause(ctx: typer.Context, name: Name, yes: Yes = False, reason: Reason = "") -> None:
    """Switch automatic failover and recovery off until 'resume'. It still syncs and observes."""
    request = Request("pause", name, f"{name} will not fail over by itself any more")
    _ask(target(ctx), request, yes=yes, reason=reason, wait=WAIT_SECONDS)


def resume(ctx: typer.Context, name: Name, yes: Yes = False) -> None:
    """Switch automatic failover and recovery on again."""
    request = Request("resume", name, f"{name} fails over by itself again")
    _ask(target(ctx), request, yes=yes, wait=WAIT_SECONDS)


def accept(ctx: typer.Context, name: Name, yes: Yes = False, reason: Reason = "") -> None:
    """Say that a source which shrank a lot is right: the next sync may seal it."""
    request = Request("accept", name, f"the next sync of {name} may seal a much smaller tree")
    _ask(target(ctx), request, yes=yes, reason=reason, wait=WAIT_SECONDS)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, and what a person is told that it will do."""

    verb: str
    name: str
    consequence: str
    arguments: Mapping[str, object] = field(default_factory=dict)


def _ask(
    where: Target, request: Request, *, yes: bool, reason: str = "", wait: float | None
) -> None:
    """Confirm, ask, and wait: until it ended, or without ``wait`` until it was answered."""
    workspace = checked_name(request.name)
    confirm(request.consequence, yes=yes)
    arguments = {**({"reason": reason} if reason else {}), **request.arguments}

    async def ask() -> Json:
        async with where.api() as api:
            operation = await api.request(workspace, request.verb, arguments)
            if wait is None:
                return await api.recorded(operation)
            return await api.settled(operation, timeout=wait)

    report(asyncio.run(ask()), f"{request.verb} {request.name}")


def report(operation: Json, what: str) -> None:
    """Say what became of an operation. Raises CliError when it was refused or failed.

    A registration that was answered at once is the state of the workspace itself.
    """
    status = "done" if "phase" in operation else operation.get("status")
    if status in {"refused", "failed"}:
        reason = operation.get("reason") or "no reason given"
        raise CliError(f"{what}: {status}: {reason}", str(operation.get("hint") or ""))
    said = "done" if status == "done" else "under way; follow it with: dumont timeline NAME -f"
    note(f"{what}: {said.replace('NAME', str(operation.get('workspace')))}")
