"""A command group that imports a verb's module only when that verb runs.

``dumont --help`` and completion need names and one line each, which stand in a table; httpx,
rich and the rest are loaded by the verb that uses them. So every start is quick, and modules
can still import what they need at their top.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the options before the verb said."""

    url: str | None = None
    key_file: Path | None = None
    dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Verb:
    """``target`` is ``module:function``, the function with Typer's annotations."""

    target: str
    help: str
    panel: str | None = None
    passes_arguments: bool = False
    """Everything after the verb belongs to another program's own command line."""

    def load(self, name: str) -> Any:
        module, _, function = self.target.partition(":")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        settings = {"ignore_unknown_options": True, "allow_extra_args": True}
        app.command(
            name,
            help=None if not self.passes_arguments else self.help,
            context_settings=settings if self.passes_arguments else None,
            add_help_option=not self.passes_arguments,
        )(getattr(import_module(module), function))
        return get_command(app)


class VerbGroup(TyperGroup):
    """A group whose verbs are in ``verbs``; its own sub-groups are added the usual way."""

    verbs: ClassVar[Mapping[str, Verb]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.verbs, *(name for name in self.commands if name not in self.verbs)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that knows its name and help only: enough to be listed."""
        verb = self.verbs.get(cmd_name)
        if verb is None:
            return super().get_command(ctx, cmd_name)
        return TyperCommand(name=cmd_name, help=verb.help, rich_help_panel=verb.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real verb: it is about to run, or to say what its options are."""
        name, command, rest = super().resolve_command(ctx, args)
        verb = self.verbs.get(name or "")
        return (name, command if verb is None else verb.load(str(name)), rest)
