"""Plants each bug in a copy of the tree and runs what must catch it: ``make mutants``.

    python -m tests.mutants             all of them, two at a time
    python -m tests.mutants NAME ...    these

The copy holds what git tracks and nothing else. Before any bug is planted, everything that is to
catch one must pass there. Exits 1 when a bug was not caught, and says which.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.mutants.catalogue import MUTANTS, Mutant, planted

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 2
PATIENCE = 240.0
CAUGHT = 1
"""The exit status of pytest and of the lab when something failed; others mean that it never ran."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a catcher ended: its exit status, None when it was ended for taking too long."""

    status: int | None
    output: str
    seconds: float


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *(m.name for m in MUTANTS)])
    names = parser.parse_args(arguments).names
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    with tempfile.TemporaryDirectory(prefix="dumont-mutants-") as directory:
        sound = Path(directory) / "sound"
        copy_of_the_tree(sound)
        if (failure := _fails_unharmed(sound, chosen)) is not None:
            print(f"without any bug this fails already:\n{failure}", file=sys.stderr)
            return 2
        with ThreadPoolExecutor(AT_ONCE) as pool:
            survivors = [
                mutant
                for mutant, caught in zip(
                    chosen, pool.map(partial(_caught, sound), chosen), strict=True
                )
                if not caught
            ]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} planted bugs were caught")
    return 1 if survivors else 0


def copy_of_the_tree(to: Path) -> None:
    """What git tracks, as it is in the work tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def tree_with(mutant: Mutant, sound: Path) -> Path:
    """A tree beside ``sound`` with the bug in it; all other files are the same files."""
    tree = sound.parent / mutant.name
    shutil.copytree(sound, tree, copy_function=os.link)
    for name, old, new in mutant.edits:
        file = tree / name
        text = planted(file.read_text(), old, new)
        file.unlink()  # not written through the link
        file.write_text(text)
    return tree


def _fails_unharmed(sound: Path, chosen: Sequence[Mutant]) -> str | None:
    nodes = sorted({node for mutant in chosen for node in mutant.tests})
    commands = [("pytest", *nodes)] if nodes else []
    commands += sorted({mutant.caught_by for mutant in chosen if not mutant.tests})
    for command in commands:
        run = _run(sound, command)
        if run.status != 0:
            return run.output
    return None


def _caught(sound: Path, mutant: Mutant) -> bool:
    tree = tree_with(mutant, sound)
    try:
        run = _run(tree, mutant.caught_by)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    caught = run.status == CAUGHT
    word = "caught" if caught else f"NOT CAUGHT (exit {run.status})"
    print(f"{run.seconds:5.1f} s  {word:<11} {mutant.name}: {mutant.about}", flush=True)
    if not caught:
        print(run.output[-2000:], file=sys.stderr)
    return caught


def _run(tree: Path, command: Sequence[str]) -> Run:
    """``python -m command`` in the tree and with its modules, not with those installed."""
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", *command, *(("-x",) if command[0] == "pytest" else ())],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        status: int | None
        try:
            output, _ = process.communicate(timeout=PATIENCE)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, status = process.communicate()[0], None
    return Run(status, output, time.monotonic() - begun)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
