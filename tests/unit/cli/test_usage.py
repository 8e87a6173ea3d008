"""What the command line says when it is used wrongly: one line what, one line what to do."""

import json
import socket
import sys
from pathlib import Path

import pytest

from cli.main import LOG, ROOT, WORKSPACE
from cli.verbs import Verb
from tests.unit.cli.conftest import Dumont

VERBS = [*ROOT.items(), *WORKSPACE.items(), *LOG.items()]


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_every_verb_that_is_listed_can_be_loaded(name: str, verb: Verb) -> None:
    assert verb.load(name).name == name


def test_help_names_every_verb_without_loading_any(dumont: Dumont) -> None:
    loaded = {name for name in sys.modules if name.startswith("cli.commands.")}
    result = dumont("--help")
    assert result.code == 0
    for name in ROOT:
        assert name in result.out
    assert {name for name in sys.modules if name.startswith("cli.commands.")} == loaded


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["failver"], "No such command"),
        (["failover"], "Missing argument"),
        (["status", "--colour"], "No such option"),
        (["status", "-o", "yaml"], "yaml"),
        (["up"], "--embedded"),
        (["up", "--embedded", "--replicas", "api=2"], "runs once"),
        (["up", "--embedded", "--endpoint-ports", "many"], "range of ports"),
        (["up", "--embedded", "--env", "NOVALUE"], "KEY=VALUE"),
        (["failover", "Not A Name", "--yes"], "not usable"),
        (["workspace", "add", "w", "--policy", "sync_intervall=3"], "did you mean sync_interval?"),
        (["workspace", "add", "w", "--policy", "sync_interval=soon"], "takes a number"),
        (["workspace", "add", "w", "--policy", "sync_interval=-1"], "greater than 0"),
        (["workspace", "add", "w", "--policy", "auto_failover=maybe"], "true or false"),
        (["workspace", "add", "w", "--from", "/nowhere/at/all"], "no directory"),
        (["workspace", "add", "w", "--from", "/etc/hostname"], "not a directory"),
        (["workspace", "add", "w", "--ssh", "gpu:port"], "user@host:port"),
        (["workspace", "add", "w", "--path", "here"], "not absolute"),
        (["--url", "nonsense", "status"], "not an address"),
        (["--url", "http://127.0.0.1:1", "status"], "needs a key"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_says_why(
    dumont: Dumont, arguments: list[str], says: str
) -> None:
    result = dumont(*arguments)
    assert result.code == 2
    assert says in result.err
    assert result.out == ""
    assert "Traceback" not in result.err


def test_nothing_is_changed_when_nobody_is_there_to_confirm(dumont: Dumont) -> None:
    result = dumont("failover", "train")
    assert result.code == 2
    assert "--yes" in result.err


def test_without_a_stack_a_reading_verb_says_how_to_start_one(dumont: Dumont) -> None:
    result = dumont("status")
    assert result.code == 1
    assert "no stack runs" in result.err
    assert "dumont up --embedded" in result.err


def test_down_without_a_stack_is_no_error(dumont: Dumont) -> None:
    result = dumont("down")
    assert result.code == 0
    assert "nothing runs" in result.err


def test_down_can_say_so_in_json(dumont: Dumont, tmp_path: Path) -> None:
    result = dumont("down", "--dir", str(tmp_path / "else"), "--json")
    assert json.loads(result.out) == {
        "dir": str(tmp_path / "else"),
        "ended": 0,
        "deleted": False,
    }


def test_an_endpoint_port_in_use_is_named(dumont: Dumont) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = dumont("up", "--embedded", "--endpoint-ports", str(port))
    assert result.code == 1
    assert f"port {port} on 127.0.0.1 is in use" in result.err
    assert "--endpoint-ports" in result.err


def test_a_directory_that_holds_no_stack_is_never_deleted(dumont: Dumont, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("years of work")
    result = dumont("down", "--dir", str(mine), "--delete-data", "--yes")
    assert result.code == 2
    assert "holds no stack" in result.err
    assert (mine / "thesis").read_text() == "years of work"
