"""What is not watched is nothing that rsync would copy."""

import subprocess
from pathlib import Path

import pytest

from shared.gate.program.excludes import Excludes

TREE = (
    *("a.tmp", "keep", "cache/x", "deep/cache/x", "deep/er/a.tmp", "deep/cache.d/x", "scratch/x"),
    *("deep/scratch/x", "tmp", "deep/file-named/cache", "x[1]/y", "odd/st*r", "odd/star"),
)


def copied(top: Path, patterns: tuple[str, ...]) -> set[str]:
    target = top / "target"
    options = [f"--exclude={pattern}" for pattern in patterns]
    subprocess.run(["rsync", "-a", *options, f"{top}/source/", f"{target}/"], check=True)
    return {str(path.relative_to(target)) for path in target.rglob("*")}


@pytest.mark.parametrize(
    ("patterns", "exact"),
    [
        (("*.tmp",), True),
        (("cache/",), True),
        (("cache",), True),
        (("/scratch",), True),
        (("/scratch/", "cache/", "*.tmp"), True),
        (("c?che/", "t*p"), True),
        (("deep/cache",), False),
        (("**/cache",), False),
        (("x[[]1]",), False),
        (("st\\*r",), False),
        ((), True),
    ],
)
def test_what_is_left_out_is_what_rsync_leaves_out(
    tmp_path: Path, patterns: tuple[str, ...], exact: bool
) -> None:
    source = tmp_path / "source"
    for name in TREE:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    excludes = Excludes(patterns)
    left = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if not excludes.leave_out(str(path.relative_to(source)), directory=path.is_dir())
    }
    kept = copied(tmp_path, patterns)
    assert kept <= left
    assert not exact or kept == left
