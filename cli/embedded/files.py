"""Small private files: written whole or not at all, readable by their owner only."""

import os
import secrets
import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` with ``text``, mode 0600; a reader sees the old or the new, never half."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def secret(path: Path, *, prefix: str = "") -> str:
    """The secret kept in ``path``, made at random the first time."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        made = prefix + secrets.token_hex(24)
        write_private(path, made + "\n")
        return made


def last_lines(path: Path, count: int = 5, *, limit: int = 8192) -> list[str]:
    """The last non-empty lines of a log; none when there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [line for line in lines if line.strip()][-count:]
