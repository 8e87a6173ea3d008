"""The command line as a person uses it, in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.main import main


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


Dumont = Callable[..., Result]


@pytest.fixture
def dumont(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Dumont:
    """Run ``dumont ARGUMENTS`` with a state directory of its own and nobody at the keyboard."""
    for name in ("DUMONT_URL", "DUMONT_API_KEY", "DUMONT_API_KEY_FILE", "DUMONT_LOG_DSN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DUMONT_DIR", str(tmp_path / "state"))

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["dumont", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 1, out, err)

    return run
