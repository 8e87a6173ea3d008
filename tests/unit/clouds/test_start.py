"""A service that died is needed at once: it waits for nothing that it may not even need."""

import subprocess
import sys

import pytest

LOADED = "import services.{}.bootstrap, sys; print(*(m for m in sys.modules if 'compute_v1' in m))"


@pytest.mark.parametrize("service", ["health", "recovery"])
def test_a_service_starts_without_the_seconds_of_googles_client(service: str) -> None:
    command = [sys.executable, "-c", LOADED.format(service)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
