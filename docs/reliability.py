"""``docs/reliability.md``: each promise with the tests that show it, each fault with its own.

The catalogue and the promises are data (``faults.toml``, ``promises.toml``); which test shows what
is read off the marks in the syntax of tests and lab, without importing them.
"""

import ast
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

MARKED = ("tests", "lab")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong. ``lab`` names fault kinds of the lab; ``elsewhere`` says where it
    is met when it is no matter of recovery, bus, log or providers, and is empty when it is.
    """

    number: int
    group: str
    what: str
    outcome: str
    lab: tuple[str, ...] = ()
    elsewhere: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """``shown_by`` are tests as ``path::name``."""

    title: str
    text: str
    kept: tuple[str, ...]
    shown_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """Where a fault is shown: a test or class by its file and name."""

    file: str
    name: str

    def __str__(self) -> str:
        words = self.name.removeprefix("test_").replace("_", " ")
        return f"[{words}](../{self.file})"


def document(root: Path) -> str:
    """``docs/reliability.md``."""
    groups, faults = catalogue(root)
    shown = marks(root)
    parts = [_INTRODUCTION, *(_promise(promise) for promise in promises(root)), _FAULTS]
    for letter, title in groups.items():
        rows = [_row(fault, shown, root) for fault in faults if fault.group == letter]
        head = (
            "| fault | what goes wrong | what comes of it | shown by |\n| --- | --- | --- | --- |"
        )
        parts.append("\n".join([f"### {title}\n", head, *rows]))
    parts.append(_limits(root))
    return "\n\n".join(parts) + "\n"


def problems(root: Path) -> list[str]:
    """What keeps the document from being true, in words."""
    _, faults = catalogue(root)
    shown = marks(root)
    known = {fault.number for fault in faults}
    found = [f"no fault {number} is in the catalogue" for number in sorted(shown.keys() - known)]
    for promise in promises(root):
        found += [f"{test} is not there: {promise.title}" for test in _missing(root, promise)]
    kinds = lab_kinds(root)
    for fault in faults:
        if kinds is not None:
            gone = sorted(set(fault.lab) - kinds)
            found += [f"fault {fault.number}: the lab has no {name}" for name in gone]
    return found + _unshown(faults, shown, lab=kinds is not None)


def _unshown(faults: Sequence[Fault], shown: Mapping[int, object], *, lab: bool) -> list[str]:
    """The faults that belong here and that neither a test nor the lab shows."""
    return [
        f"fault {fault.number} has no test and no lab fault: {fault.what}"
        for fault in faults
        if not fault.elsewhere and fault.number not in shown and not (lab and fault.lab)
    ]


# --- the data ------------------------------------------------------------------------------------


def catalogue(root: Path) -> tuple[Mapping[str, str], Sequence[Fault]]:
    """The titles of the groups, and the faults in their order."""
    read = tomllib.loads((root / "docs" / "faults.toml").read_text())
    faults = [Fault(**{**entry, "lab": tuple(entry.get("lab", ()))}) for entry in read["fault"]]
    return read["groups"], faults


def promises(root: Path) -> list[Promise]:
    read = tomllib.loads((root / "docs" / "promises.toml").read_text())
    return [
        Promise(
            title=entry["title"],
            text=entry["text"].strip(),
            kept=tuple(entry["kept"]),
            shown_by=tuple(entry["shown_by"]),
        )
        for entry in read["promise"]
    ]


def lab_kinds(root: Path) -> set[str] | None:
    """The fault kinds of the lab, None where there is no lab."""
    if not (root / "lab" / "faults.py").exists():
        return None
    kinds: Mapping[str, object] = import_module("lab.faults").KINDS
    return set(kinds)


# --- the marks -----------------------------------------------------------------------------------


def marks(root: Path) -> dict[int, list[Shown]]:
    """By the number of each fault, what carries its mark, in order of files and lines."""
    found: dict[int, list[Shown]] = {}
    for path in sorted(path for top in MARKED for path in (root / top).rglob("*.py")):
        file = str(path.relative_to(root))
        for name, numbers in _marked(ast.parse(path.read_text(), file)):
            for number in dict.fromkeys(numbers):
                found.setdefault(number, []).append(Shown(file, name))
    return found


def _marked(tree: ast.Module) -> Iterator[tuple[str, list[int]]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        numbers = [n for decorator in node.decorator_list for n in _numbers(decorator)]
        if numbers:
            yield node.name, numbers


def _numbers(decorator: ast.expr) -> list[int]:
    """Those of ``@fault(3, 4)`` or ``@pytest.mark.fault(3, 4)``."""
    match decorator:
        case ast.Call(func=ast.Name(id="fault") | ast.Attribute(attr="fault"), args=arguments):
            values = [
                argument.value for argument in arguments if isinstance(argument, ast.Constant)
            ]
            return [value for value in values if isinstance(value, int)]
    return []


def _missing(root: Path, promise: Promise) -> list[str]:
    return [test for test in promise.shown_by if not _is_there(root, test)]


def _is_there(root: Path, test: str) -> bool:
    file, *names = test.split("::")
    if not (root / file).is_file():
        return False
    defined = {
        node.name
        for node in ast.walk(ast.parse((root / file).read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return set(names) <= defined


# --- the words -----------------------------------------------------------------------------------

_INTRODUCTION = """\
# Reliability

Generated by `docs/generate.py` from `faults.toml`, `promises.toml` and the marks in the tests: do
not edit.

What is promised, how each promise is kept, and which test shows it; then every fault that we could
think of, with what comes of it; then what is not promised. `make mutants` plants known bugs in
copies of the tree and demands that a test catches each: so the tests below are not only green."""

_FAULTS = """\
## Faults

Where a fault is marked with `lab`, the simulation lab strikes with it in random runs too."""


def _promise(promise: Promise) -> str:
    kept = "\n".join(f"- {line}" for line in promise.kept)
    tests = "\n".join(f"- {Shown(*_split(test))}" for test in promise.shown_by)
    return f"## {promise.title}\n\n{promise.text}\n\nHow:\n\n{kept}\n\nShown by:\n\n{tests}"


def _split(test: str) -> tuple[str, str]:
    file, *names = test.split("::")
    return file, names[-1]


def _row(fault: Fault, shown: Mapping[int, Sequence[Shown]], root: Path) -> str:
    if fault.elsewhere:
        where = fault.elsewhere
    else:
        places = [str(place) for place in shown.get(fault.number, ())]
        if fault.lab and lab_kinds(root) is not None:
            places.append(f"lab: {', '.join(f'`{name}`' for name in fault.lab)}")
        where = "<br>".join(places) or "**nothing yet**"
    return f"| {fault.number} | {fault.what} | {fault.outcome} | {where} |"


def _limits(root: Path) -> str:
    read = tomllib.loads((root / "docs" / "promises.toml").read_text())
    lines = "\n".join(f"- {line}" for line in read["limits"])
    return f"## What is not promised\n\n{lines}"
