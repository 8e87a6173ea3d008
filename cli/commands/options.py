"""Options and arguments that several verbs share."""

from typing import Annotated

import typer

from cli.connection import Target
from cli.errors import UsageError
from cli.output import Format
from cli.verbs import Given
from shared.machines import WorkspaceName, workspace_name

Name = Annotated[str, typer.Argument(metavar="NAME", help="The workspace.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]
Reason = Annotated[str, typer.Option("--reason", help="Why: recorded in the log.")]


def target(ctx: typer.Context) -> Target:
    """Which stack the options before the verb mean."""
    given = ctx.find_root().obj
    assert isinstance(given, Given)
    return Target(url=given.url, key_file=given.key_file, dir=given.dir)


def checked_name(text: str) -> WorkspaceName:
    """Raises UsageError with what is allowed."""
    try:
        return workspace_name(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
