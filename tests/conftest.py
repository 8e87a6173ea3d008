"""Fixtures of every suite."""

from typing import Any

import pytest

from lab.clock import VirtualTimeLoop


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """The lab's adapters live on the lab's clock; all others, and all servers, on the real one."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    if "lab" in parameters.values():
        return "asyncio", {"loop_factory": VirtualTimeLoop}
    return "asyncio"
