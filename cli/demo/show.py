"""What a person sees of the demo: the story as it happens, then the timeline and the verdict."""

import sys
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.text import size
from services.api.domain.narration import Severity

STYLES = {
    Severity.INFO: "",
    Severity.SUCCESS: "green",
    Severity.WARNING: "yellow",
    Severity.CRITICAL: "bold red",
}
MARKS = {Severity.INFO: " ", Severity.SUCCESS: "+", Severity.WARNING: "!", Severity.CRITICAL: "x"}


class Show:
    """Speaks on standard error, so that ``--json`` has standard output to itself."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    def of(self, workspace: str) -> "Show":
        """The same, where each line says which workspace it is about."""
        return _ShowOne(self._console, workspace)

    def chapter(self, text: str) -> None:
        self._console.print(Text(f"\n== {text}", style="bold cyan"))

    def event(self, text: str, severity: Severity, at: datetime) -> None:
        line = f"  {at.astimezone():%H:%M:%S.%f}"[:-4] + f" {MARKS[severity]} {text}"
        self._console.print(Text(line, style=STYLES[severity]))

    def progress(self, text: str) -> None:
        if sys.stderr.isatty():
            self._console.print(Text(f"    {text}"), end="\r")

    def verdict(self, result: dict[str, Any]) -> None:
        """The timeline as a table, the promises, and the figures that people ask for."""
        console = Console(highlight=False) if not sys.stderr.isatty() else self._console
        if "workspaces" in result:
            console.print(_workspaces(result["workspaces"]))
        else:
            console.print(_timeline(result["timeline"]))
        console.print(_promises(result["promises"]))
        console.print(_figures(result))
        if result["failure"]:
            console.print(Text(f"failed: {result['failure']}", style="bold red"))
        text, style = ("every promise held", "bold green")
        if not result["ok"]:
            text, style = ("NOT every promise held", "bold red")
        console.print(Text(text, style=style))


class _ShowOne(Show):
    """Of many: chapters become lines, and progress is nobody's to follow."""

    def __init__(self, console: Console, workspace: str) -> None:
        super().__init__(console)
        self._workspace = workspace

    def chapter(self, text: str) -> None:
        self._console.print(Text(f"== {self._workspace}: {text}", style="cyan"))

    def event(self, text: str, severity: Severity, at: datetime) -> None:
        super().event(f"{self._workspace:8} {text}", severity, at)

    def progress(self, text: str) -> None:
        pass


def _workspaces(each: list[dict[str, Any]]) -> Table:
    heads = ("", "workspace", "noticed", "standby served", "back", "paused", "promises kept")
    table = Table(*heads, title="Workspaces", title_justify="left")
    for one in each:
        held = sum(promise["held"] for promise in one["promises"])
        mark = Text("ok", style="green") if one["ok"] else Text("BROKEN", style="bold red")
        table.add_row(
            mark,
            one["name"],
            _seconds(one["detection_seconds"] or one["told_seconds"]),
            _seconds(one["failover_seconds"]),
            _seconds(one["recovery_seconds"]),
            _seconds(one["failback_pause_seconds"]),
            f"{held} of {len(one['promises'])}",
        )
    return table


def _timeline(entries: list[dict[str, Any]]) -> Table:
    table = Table("time", "event", "what happened", title="Timeline", title_justify="left")
    for entry in entries:
        at = datetime.fromisoformat(entry["at"]).astimezone()
        table.add_row(f"{at:%H:%M:%S.%f}"[:-4], entry["event"], entry["text"])
    return table


def _promises(promises: list[dict[str, Any]]) -> Table:
    table = Table("", "promise", "measured", "bound", title="Promises", title_justify="left")
    for promise in promises:
        held = Text("held", style="green") if promise["held"] else Text("BROKEN", style="bold red")
        unit = promise["unit"]
        measured = "not measured" if promise["value"] == -1 else f"{promise['value']:g} {unit}"
        table.add_row(held, promise["name"], measured, f"{promise['bound']:g} {unit}")
    return table


def _figures(result: dict[str, Any]) -> Table:
    table = Table(show_header=False, title="In short", title_justify="left")
    lost_bytes = result["lost_bytes"]
    lost = f"{result['lost_files']} files, {size(lost_bytes)}" if lost_bytes is not None else "-"
    for name, value in (
        ("the loss was noticed after", _seconds(result["detection_seconds"])),
        ("the standby served after", f"{_seconds(result['failover_seconds'])} more"),
        ("lost with the GPU (unsynced)", lost),
        ("back on a GPU after", _seconds(result["recovery_seconds"])),
        ("pause at the failback", _seconds(result["failback_pause_seconds"])),
        ("GPUs billed at the end", str(result["machines_billed"])),
        ("two billed at once for", _seconds(result["double_billed_seconds"])),
    ):
        table.add_row(name, value)
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
