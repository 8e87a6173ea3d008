"""The gate is many modules here and one file on a host, where nothing of ours is beside it."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from shared import gate
from shared.gate.program import layout, sessions


def test_the_same_modules_are_packed_into_the_same_bytes() -> None:
    assert gate.source() == gate.source()


def test_it_knows_where_it_is_installed() -> None:
    assert layout.PROGRAM == gate.INSTALLED_AT


@pytest.mark.parametrize("arguments", [["install"], ["--workspace=w", "--role=read", "--epoch=0"]])
def test_it_starts_from_its_one_file_and_answers_in_words(
    tmp_path: Path, arguments: list[str]
) -> None:
    program = tmp_path / "gate.pyz"
    program.write_bytes(gate.source())
    done = subprocess.run(
        [sys.executable, "-I", "-S", program, *arguments],
        input=b"no request\n",
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    assert json.loads(done.stdout)["error"]["reason"]
    assert done.stderr == b""


def test_every_verb_that_can_be_asked_for_is_there() -> None:
    places = {verb: place for verbs in sessions.VERBS.values() for verb, place in verbs.items()}
    assert places.keys() == set(gate.Verb)
    for place in places.values():
        module, function = place.split(":")
        assert callable(getattr(import_module(f"shared.gate.program.{module}"), function))


@pytest.mark.parametrize("module", sorted(gate.PROGRAM.glob("*.py")), ids=lambda path: path.name)
def test_it_needs_nothing_but_itself_and_the_standard_library(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_bytes(), feature_version=(3, 9))):
        if isinstance(node, ast.Import):
            assert {name.name.split(".")[0] for name in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert (gate.PROGRAM / f"{node.module}.py").exists()
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).split(".")[0] in sys.stdlib_module_names
