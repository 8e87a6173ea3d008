"""The api as the process that it is: a real bus, and a real log that it may only read."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from shared import codec
from shared.bus.nats_bus import NatsBus
from shared.bus.streams import DURABLE_RECOVERY
from shared.eventlog.writer import PostgresWriter
from shared.events.requests import RequestReceived
from shared.subjects import STREAM_INBOX, event
from tests.support.servers import Nats, Postgres, free_port
from tests.support.waiting import eventually
from tests.unit.api.tale import Tale

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
KEY = "a-key-that-is-long-enough"


@dataclass
class Running:
    process: subprocess.Popen[str]
    url: str

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"})


@contextmanager
def api(directory: Path, nats: Nats, postgres: Postgres) -> Iterator[Running]:
    """``python -m services.api``, ended by SIGTERM; it has to end well and tell no secret."""
    port, ready = free_port(), directory / "ready"
    (directory / "key").write_text(KEY + "\n")
    environment = {
        "PATH": os.defpath,
        "DUMONT_NATS_URL": nats.url,
        "DUMONT_NATS_PASSWORD": nats.passwords["api"],
        "DUMONT_LOG_DSN": postgres.dsn("api"),
        "DUMONT_LOG_PASSWORD": postgres.passwords["api"],
        "DUMONT_API_PORT": str(port),
        "DUMONT_API_KEY_FILE": str(directory / "key"),
        "DUMONT_ENDPOINT_HOST": "ssh.example",
        "DUMONT_READY_FILE": str(ready),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services.api"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        yield Running(process, f"http://127.0.0.1:{port}")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
        assert process.returncode == 0, log
        for secret in (KEY, nats.passwords["api"], postgres.passwords["api"]):
            assert secret not in log
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
async def recovery(nats: Nats, postgres: Postgres) -> AsyncIterator[NatsBus]:
    """Recovery's place on the bus, with everything made that has to be there."""
    await postgres.empty()
    connecting = NatsBus.connect(nats.url, "recovery", nats.passwords["recovery"])
    async with connecting as bus:
        await bus.ensure_streams()
        yield bus


async def record(bus: NatsBus, postgres: Postgres, tale: Tale) -> None:
    dsn = postgres.dsn("recovery")
    async with PostgresWriter(dsn, postgres.passwords["recovery"]) as log:
        term = await log.acquire("test", 30)
        assert term is not None
        known = await log.known([envelope.id for envelope in tale.told])
        new = [envelope for envelope in tale.told if envelope.id not in known]
        recorded = await log.append(new, term=term, expected_version=len(known))
        await log.release(term)
    for envelope in recorded:
        await bus.publish(event(envelope.event.workspace, envelope.event.type), envelope)


async def test_it_shows_what_the_log_holds_and_follows_it(
    tmp_path: Path, nats: Nats, postgres: Postgres, recovery: NatsBus
) -> None:
    tale = Tale().registered().standby_up()
    await record(recovery, postgres, tale)
    with api(tmp_path, nats, postgres) as running:
        async with running.http() as http:
            state = (await http.get("/v1/workspaces/train")).json()
            assert state["phase"] == "ON_STANDBY"
            assert (state["endpoint"]["host"], state["endpoint"]["port"]) == ("ssh.example", 20000)
            ready = await http.get("/readyz")
            assert ready.status_code == 200, ready.text
            async with http.stream("GET", "/v1/stream", timeout=10) as stream:
                await record(recovery, postgres, tale.synced().searching())
                lines = stream.aiter_lines()
                seen = [await anext(lines) for _ in range(3)]
                assert "event: SyncCompleted" in seen
            state = (await http.get("/v1/workspaces/train")).json()
            assert state["phase"] == "RECOVERING"


async def test_a_request_reaches_the_inbox_as_the_api_may_say_it(
    tmp_path: Path, nats: Nats, postgres: Postgres, recovery: NatsBus
) -> None:
    tale = Tale().registered()
    await record(recovery, postgres, tale)
    with api(tmp_path, nats, postgres) as running:
        async with running.http() as http:
            key = {"Idempotency-Key": "once"}
            answer = await http.post("/v1/workspaces/train/pause", headers=key, timeout=10)
            assert answer.status_code == 202
            assert answer.json()["recorded"] is False  # nobody plays recovery here
            inbox = recovery.consume(stream=STREAM_INBOX, durable=DURABLE_RECOVERY)
            (delivery,) = await anext(inbox)
            await delivery.ack()
            await inbox.aclose()  # type: ignore[attr-defined]
    asked = codec.decode(delivery.body)
    assert isinstance(asked.event, RequestReceived)
    assert (asked.event.verb, asked.event.actor) == ("pause", "admin")
    assert answer.headers["Location"] == f"/v1/operations/{asked.id}"


def test_a_set_up_that_cannot_work_ends_it_with_one_clear_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.api"],
        cwd=ROOT,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == "dumont api: DUMONT_NATS_URL is not set\n"
