"""The health service as the process that it is: a real bus, a real market, a real sshd."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared import assignments, codec
from shared.assignments import Assignment, SyncMode
from shared.bus.nats_bus import NatsBus
from shared.bus.streams import DURABLE_RECOVERY
from shared.clouds.vast import VastClient
from shared.envelope import Envelope
from shared.machines import Host, MachineId, WorkspaceName
from shared.policy import Policy
from shared.subjects import STREAM_INBOX
from tests.support.servers import Nats
from tests.support.simulator import Simulator, simulator
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
WS = WorkspaceName("train")


@dataclass
class Heard:
    """What the service said, on the inbox and as telemetry."""

    events: list[Envelope]
    samples: list[dict[str, Any]]

    async def until(self, look: Callable[["Heard"], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not look(self):
            seen = [envelope.event for envelope in self.events], self.samples[-2:]
            assert time.monotonic() < deadline, f"not heard: {seen}"
            await asyncio.sleep(0.05)


@contextmanager
def health(nats: Nats, clouds: Simulator, ready: Path) -> Any:
    """``python -m services.health``, ended by SIGTERM; it has to end well."""
    environment = {
        "PATH": os.defpath,
        "DUMONT_NATS_URL": nats.url,
        "DUMONT_NATS_PASSWORD": nats.passwords["health"],
        "DUMONT_VAST_URL": clouds.vast_url,
        "DUMONT_VAST_READ_KEY": clouds.keys["vast_read"],
        "DUMONT_PROVIDER_PACE": "0",
        "DUMONT_READY_FILE": str(ready),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services.health"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
        assert process.returncode == 0, log
        assert clouds.keys["vast_read"] not in log
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
async def bus(own_nats: Nats) -> AsyncIterator[NatsBus]:
    async with NatsBus.connect(own_nats.url, "admin", own_nats.passwords["admin"]) as admin:
        await admin.ensure_streams()
    async with NatsBus.connect(own_nats.url, "recovery", own_nats.passwords["recovery"]) as bus:
        yield bus


async def listen(bus: NatsBus, heard: Heard) -> None:
    async for batch in bus.consume(stream=STREAM_INBOX, durable=DURABLE_RECOVERY):
        for delivery in batch:
            heard.events.append(codec.decode(delivery.body))
            await delivery.ack()


async def test_an_outbid_gpu_is_reported_and_a_missing_certificate_is_not(
    own_nats: Nats, bus: NatsBus, tmp_path: Path
) -> None:
    heard = Heard([], [])

    async def hear(_subject: str, body: bytes) -> None:
        heard.samples.append(json.loads(body))

    with simulator(tmp_path / "clouds", boot_seconds=0.05, hidden_seconds=0.0) as clouds:
        host = await rented(clouds)
        await bus.put(WS, assignments.encode(watching(host)))
        async with NatsBus.connect(own_nats.url, "reader", own_nats.passwords["reader"]) as reader:
            await reader.subscribe("dumont.telemetry.health.>", hear)
            listening = asyncio.create_task(listen(bus, heard))
            with health(own_nats, clouds, tmp_path / "ready"):
                await heard.until(lambda h: len(h.samples) >= 3)
                assert (tmp_path / "ready").exists()
                sample = heard.samples[-1]
                assert (sample["provider"], sample["tcp"]) == ("running", "connects")
                assert sample["verdict"] == "unknown", "nobody answers for certificates"
                assert "certificate" in sample["reason"]
                assert heard.events == []
                clouds.happen(host.provider_id, "outbid", form="B")
                await heard.until(lambda h: len(h.events) >= 4)
            listening.cancel()
    said = [envelope.event for envelope in heard.events[:4]]
    assert [event.type for event in said] == ["HealthFailed"] * 3 + ["ThresholdReached"]
    assert getattr(said[-1], "positive", False)
    assert getattr(said[-1], "reason", "") == "the provider says: outbid"
    assert {envelope.source for envelope in heard.events} == {"health"}


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.health"],
        cwd=ROOT,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "dumont health: DUMONT_NATS_URL is not set"


async def rented(clouds: Simulator) -> Host:
    client = VastClient(key=clouds.vast_key, url=clouds.vast_url, pace=0)
    asks = await client.search({}, storage_gb=10, limit=1)
    number = await client.create(asks[0].id, label="watched", image="i", disk_gb=10, bid=5.0)
    deadline = time.monotonic() + PATIENCE
    while True:
        row = await client.instance(number)
        if row and row.ssh_address and row.actual_status == "running":
            break
        assert time.monotonic() < deadline, "the machine does not come up"
        await asyncio.sleep(0.05)
    await client.aclose()
    return Host(
        id=MachineId("watched"),
        provider="vast",
        provider_id=str(number),
        address=row.ssh_address[0],
        port=row.ssh_address[1],
    )


def watching(host: Host) -> Assignment:
    return Assignment(
        workspace=WS,
        epoch=1,
        position=1,
        mode=SyncMode.IDLE,
        path="/workspace",
        policy=Policy(health_interval=0.2, probe_timeout=2.0),
        primary=host,
        watch=(host,),
    )
