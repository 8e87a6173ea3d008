"""Real servers that a whole run shares: each test finds them empty. And machines of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.hosts import Lab, lab
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


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Lab]:
    """Machines with their gates, and certificates for them."""
    async with lab(tmp_path) as made:
        yield made
