"""``dumont``: the command line of Dumont Failover. Every verb is a line in a table here."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from cli.errors import FAILED, USAGE, CliError
from cli.messages import note
from cli.verbs import Given, Verb, VerbGroup

_STACK = "Run it"
_READ = "See"
_ASK = "Ask for"
_REACH = "Reach"
INTERRUPTED = 130


ROOT = {
    "demo": Verb("cli.commands.demo:demo", "Lose a simulated GPU and get it back.", _STACK),
    "up": Verb("cli.commands.stack:up", "Start the whole product on this machine.", _STACK),
    "down": Verb("cli.commands.stack:down", "End what 'up' started, exactly.", _STACK),
    "doctor": Verb("cli.commands.doctor:doctor", "Check what is needed; say what to do.", _STACK),
    "simulator": Verb(
        "cli.commands.simulator:simulator",
        "Serve simulated clouds with real machines to lose.",
        _STACK,
        passes_arguments=True,
    ),
    "sim": Verb(
        "cli.commands.sim:sim",
        "Play seeds of the simulation lab, or one again.",
        _STACK,
        passes_arguments=True,
    ),
    "status": Verb("cli.commands.reading:status", "Where every workspace stands.", _READ),
    "timeline": Verb("cli.commands.reading:timeline", "What happened, for people.", _READ),
    "events": Verb("cli.commands.reading:events", "The log itself, event by event.", _READ),
    "state": Verb("cli.commands.state:state", "The state of a workspace as JSON.", _READ),
    "failover": Verb("cli.commands.asking:failover", "Move to the standby now.", _ASK),
    "recover": Verb("cli.commands.asking:recover", "Look for a GPU and go back to it.", _ASK),
    "failback": Verb("cli.commands.asking:failback", "Go back to the GPU.", _ASK),
    "pause": Verb("cli.commands.asking:pause", "Automatic failover and recovery off.", _ASK),
    "resume": Verb("cli.commands.asking:resume", "Automatic failover and recovery on.", _ASK),
    "accept": Verb("cli.commands.asking:accept", "The shrunken source is right.", _ASK),
    "ssh": Verb("cli.commands.reach:ssh", "A shell in the workspace, wherever it is.", _REACH),
    "ssh-config": Verb("cli.commands.reach:ssh_config", "Lines for ~/.ssh/config.", _REACH),
}
WORKSPACE = {
    "add": Verb("cli.commands.workspace:add", "Protect a directory."),
    "list": Verb("cli.commands.workspace:list_", "All workspaces."),
    "show": Verb("cli.commands.workspace:show", "Everything about one workspace."),
    "remove": Verb("cli.commands.workspace:remove", "Give a workspace up, with its machines."),
}
LOG = {
    "verify": Verb("cli.commands.log:verify", "Check versions and the hash chain."),
    "mend": Verb("cli.commands.log:mend", "Bring an old copy up to what the bus holds."),
}


class Root(VerbGroup):
    verbs = ROOT


class Workspaces(VerbGroup):
    verbs = WORKSPACE


class EventLog(VerbGroup):
    verbs = LOG


app = typer.Typer(
    cls=Root,
    help="Failover for spot GPUs: a standby serves within two seconds, a GPU comes back by itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
GROUPS: tuple[tuple[str, type[VerbGroup], str], ...] = (
    ("workspace", Workspaces, "Workspaces: add, list, show, remove."),
    ("log", EventLog, "The event log itself."),
)
for _name, _cls, _help in GROUPS:
    _group = typer.Typer(cls=_cls, help=_help, no_args_is_help=True)
    # A callback makes it a group although Typer itself sees no command in it.
    _group.callback()(lambda: None)
    app.add_typer(_group, name=_name, rich_help_panel=_READ if _cls is EventLog else _ASK)


@app.callback()
def _options(
    ctx: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="Address of the api [default: the embedded stack's].")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with the api key.")] = None,
    dir: Annotated[Path | None, typer.Option(help="Directory of the embedded stack.")] = None,
) -> None:
    ctx.obj = Given(url=url, key_file=key_file, dir=dir)


def main() -> NoReturn:
    """Run the command line and exit: 0 ok, 1 failed, 2 asked wrongly, 130 interrupted."""
    try:
        code = app(prog_name="dumont", standalone_mode=False)
    except CliError as error:
        fail(str(error), error.hint, error.exit_code)
    except TyperException as error:
        if said := error.format_message():
            fail(said.rstrip("."), "see: dumont --help", error.exit_code)
        sys.exit(USAGE)  # no verb was given, and the help is printed already
    except BrokenPipeError:
        # Whoever read our output has enough: no failure, and nothing is left to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        # A full disk, a directory that is not ours: the system's own words say it best.
        where = f": {error.filename}" if error.filename else ""
        fail(f"{error.strerror or error}{where}", "see: dumont doctor", FAILED)
    except (KeyboardInterrupt, Abort):
        sys.exit(INTERRUPTED)
    sys.exit(code or 0)


def fail(message: str, hint: str, code: int) -> NoReturn:
    """End with one line that says what, and one that says what to do."""
    note(f"dumont: {message}")
    if hint:
        note(f"  {hint}")
    sys.exit(code)
