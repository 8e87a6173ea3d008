"""Real servers that a whole run shares: each test finds them empty."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import Nats, Postgres, nats_server, postgres_server


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[Nats]:
    """A server of the test's own, to be killed and wiped."""
    with nats_server(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server
