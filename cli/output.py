"""Data on standard output: tables for people, JSON for programs."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.messages import note, printable


class Format(StrEnum):
    """How a reading verb prints its data."""

    TABLE = "table"
    JSON = "json"


def print_json(value: object) -> None:
    """The value on standard output: indented for a person's terminal, one line for a pipe."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_facts(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values, one pair a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(printable(value)))
    console().print(table)


def print_line(value: object) -> None:
    """One line of a stream without an end: text as it is, anything else as JSON."""
    line = printable(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def console() -> Console:
    """Standard output with tables. Plain text off a terminal and with NO_COLOR."""
    return Console(soft_wrap=False, width=None if sys.stdout.isatty() else _pipe_width())


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A plain table; when there is no row, ``empty`` goes to standard error instead."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        # As text, never as markup: what a host says must not format our terminal.
        table.add_row(*(Text(printable(cell)) for cell in row))
    if not table.row_count:
        note(empty)
        return
    console().print(table)


def _pipe_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() else 200
