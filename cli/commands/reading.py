"""Verbs that read through the api: status, timeline, events."""

import asyncio
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from cli import render
from cli.client import Api, Json
from cli.commands.options import Name, Output, checked_name, target
from cli.connection import Target
from cli.messages import note
from cli.output import Format, print_facts, print_json, print_line, print_table
from shared.clock import now

WATCH_SECONDS = 1.0
_TIMELINE_WIDTHS = (12, 20)
_EVENT_WIDTHS = (8, 12, 12, 3, 20)

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as it happens.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest.")]


def status(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One workspace.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Every second, anew.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Where every workspace stands, and what you would lose if its GPU died now."""
    workspace = None if name is None else checked_name(name)
    asyncio.run(_status(target(ctx), workspace, watch, output))


async def _status(where: Target, name: str | None, watch: bool, output: Format) -> None:
    async with where.api() as api:
        states = await _states(api, name)
        if not watch:
            _show(states, output)
        elif output is Format.JSON:
            await _watch_json(api, name)
        else:
            await _watch_table(api, name)


async def _states(api: Api, name: str | None) -> list[Json]:
    return await api.workspaces() if name is None else [await api.workspace(name)]


def _show(states: list[Json], output: Format) -> None:
    if output is Format.JSON:
        print_json(states)
    else:
        show_status(states)


async def _watch_json(api: Api, name: str | None) -> None:
    """One line whenever something that is recorded changed."""
    shown: object = None
    while True:
        states = await _states(api, name)
        recorded = [(state["name"], state.get("position")) for state in states]
        if recorded != shown:
            print_line(states)
            shown = recorded
        await asyncio.sleep(WATCH_SECONDS)


async def _watch_table(api: Api, name: str | None) -> None:
    while True:
        states = await _states(api, name)
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        show_status(states)
        await asyncio.sleep(WATCH_SECONDS)


def show_status(states: Sequence[Json]) -> None:
    """The table of all workspaces and what to read below it."""
    print_table(
        render.STATUS_HEADERS,
        render.status_rows(states, now()),
        empty="no workspace yet; protect one with: dumont workspace add NAME --from DIR",
    )
    for state in states:
        for remark in render.remarks(state):
            note(remark)


def show_workspace(state: Json) -> None:
    print_facts(render.facts(state, now()))
    for remark in render.remarks(state):
        note(remark)


def timeline(
    ctx: typer.Context,
    name: Name,
    follow: Follow = False,
    limit: Limit = 200,
    output: Output = Format.TABLE,
) -> None:
    """What happened to a workspace, oldest first, one sentence an event."""
    asyncio.run(_timeline(target(ctx), checked_name(name), follow, limit, output))


async def _timeline(where: Target, name: str, follow: bool, limit: int, output: Format) -> None:
    async with where.api() as api:
        entries: deque[Json] = deque(maxlen=limit)
        async for page in api.timeline_pages(name):
            entries.extend(page)
        if not follow:
            _print(list(entries), render.TIMELINE_HEADERS, render.timeline_rows(entries), output)
            return
        _print_lines(entries, render.timeline_rows(entries), _TIMELINE_WIDTHS, output)
        after = int(entries[-1]["position"]) if entries else 0
        async for entry in api.stream(after=after, workspace=name, view="timeline"):
            _print_lines([entry], render.timeline_rows([entry]), _TIMELINE_WIDTHS, output)


def events(
    ctx: typer.Context,
    *,
    workspace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this workspace only.")
    ] = None,
    follow: Follow = False,
    after: Annotated[int, typer.Option(min=0, help="Positions greater than this.")] = 0,
    limit: Limit = 1000,
    output: Output = Format.TABLE,
) -> None:
    """The event log itself, as CloudEvents."""
    name = None if workspace is None else checked_name(workspace)
    scope = Scope(workspace=name, after=after, follow=follow)
    asyncio.run(_events(target(ctx), scope, limit, output))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which part of the log."""

    workspace: str | None
    after: int
    follow: bool


async def _events(where: Target, scope: Scope, limit: int, output: Format) -> None:
    async with where.api() as api:
        if scope.follow:
            async for event in api.stream(after=scope.after, workspace=scope.workspace):
                _print_lines([event], render.event_rows([event]), _EVENT_WIDTHS, output)
            return
        found: deque[Json] = deque(maxlen=limit)
        async for page in api.event_pages(after=scope.after, workspace=scope.workspace):
            found.extend(page)
        _print(list(found), render.EVENT_HEADERS, render.event_rows(found), output)


def _print(
    values: list[Json], headers: Sequence[str], rows: list[tuple[str, ...]], output: Format
) -> None:
    if output is Format.JSON:
        print_json(values)
    else:
        print_table(headers, rows, empty="nothing has happened yet")


def _print_lines(
    values: Iterable[Json], rows: Sequence[tuple[str, ...]], widths: Sequence[int], output: Format
) -> None:
    for value, row in zip(values, rows, strict=True):
        if output is Format.JSON:
            print_line(value)
        else:
            print_line(render.line(row, widths))
