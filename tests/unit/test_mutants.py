"""The planted bugs stay plantable: ``make mutants`` is slow, and this is not."""

import ast

import pytest

from tests.mutants.__main__ import ROOT
from tests.mutants.catalogue import MUTANTS, Mutant, planted

NAMED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def test_no_two_have_one_name() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_there_is_one_place_to_plant_it_and_the_code_stays_code(mutant: Mutant) -> None:
    for file, old, new in mutant.edits:
        text = (ROOT / file).read_text()
        assert planted(text, old, new) != text
        ast.parse(planted(text, old, new))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_must_catch_it_is_there(mutant: Mutant) -> None:
    for node in mutant.tests:
        file, *names = node.split("::")
        tree = ast.parse((ROOT / file).read_text())
        defined = {
            d.name
            for d in ast.walk(tree)
            if isinstance(d, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert {name.partition("[")[0] for name in names} <= defined
