"""The workspace that a demo protects: a generated tree, or a copy of a directory of yours."""

import random
import shutil
from pathlib import Path

from cli.errors import CliError

CHUNK = 1 << 20
SPARE_BYTES = 1 << 30
COPIES = 8
"""A demo keeps the tree on the uploading side, the standby (three times) and up to two GPUs."""


def build(into: Path, *, big_file_bytes: int, small_files: int, seed: int = 1) -> None:
    """Real files of the kinds that a training run leaves: a big one, a table, many small ones."""
    rng = random.Random(seed)  # noqa: S311 - content to copy, not a secret
    into.mkdir(parents=True)
    with (into / "model.pt").open("wb") as model:
        for _ in range(big_file_bytes // CHUNK):
            model.write(rng.randbytes(CHUNK))
        model.write(rng.randbytes(big_file_bytes % CHUNK))
    rows = [f"{i},{rng.random():.6f},{rng.randint(0, 9)}" for i in range(20_000)]
    (into / "data.csv").write_text("\n".join(["id,value,label", *rows]) + "\n")
    (into / "config.yaml").write_text("model: small\nlearning_rate: 0.0003\nsteps: 10000\n")
    (into / "latest.pt").symlink_to("model.pt")
    for i in range(small_files):
        directory = into / "samples" / f"{i // 200:03}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{i:05}.txt").write_bytes(rng.randbytes(rng.randint(50, 2_000)))


def copy(source: Path, into: Path) -> None:
    """A copy of ``source``; what is no file, directory or link is left out."""
    try:
        shutil.copytree(source, into, symlinks=True, ignore=_special)
    except (OSError, shutil.Error) as error:
        raise CliError(
            f"cannot copy {source}: {str(error)[:300]}", "take a directory that you may read"
        ) from None


def _special(directory: str, names: list[str]) -> list[str]:
    here = Path(directory)
    return [
        name
        for name in names
        if not (path := here / name).is_symlink() and not path.is_file() and not path.is_dir()
    ]


def size(tree: Path) -> int:
    return sum(p.lstat().st_size for p in tree.rglob("*") if p.is_file() and not p.is_symlink())


def require_space(at: Path, tree_bytes: int) -> None:
    """Raises CliError when the demo's machines would not fit on this disk."""
    needed = tree_bytes * COPIES + SPARE_BYTES
    free = shutil.disk_usage(at).free
    if free < needed:
        raise CliError(
            f"{at} has {free >> 20} MiB free, the demo may need {needed >> 20} MiB",
            "free some, set TMPDIR to another disk, or take a smaller --workspace",
        )
