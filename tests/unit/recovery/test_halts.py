"""A halt is only useful with a remedy."""

import re
from pathlib import Path

import pytest

from services.recovery.domain.halts import Halt

RUNBOOK = Path(__file__).parents[3] / "docs" / "runbook.md"


@pytest.mark.parametrize("code", Halt)
def test_each_reason_to_halt_has_its_section_in_the_runbook(code: Halt) -> None:
    halted = RUNBOOK.read_text().partition("\n## Halted\n")[2].partition("\n## ")[0]
    section = re.search(rf"^### {code}\n\n(.+?)(?=^### |\Z)", halted, re.M | re.S)
    assert section, f"docs/runbook.md lacks '### {code}' under '## Halted'"
    assert "dumont recover" in section[1]
