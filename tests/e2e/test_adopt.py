"""A GPU that already holds data is the source: its tree stays as it is, to the last byte."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.simulator import Simulator, simulator
from tests.support.waiting import eventually

FAST = {
    "DUMONT_DRIVE_INTERVAL": "0.2",
    "DUMONT_POLL_INTERVAL": "0.3",
    "DUMONT_SWEEP_INTERVAL": "1",
    "DUMONT_PROVIDER_PACE": "0.02",
}
_DOWN = [sys.executable, "-m", "cli", "down", "--delete-data", "--yes"]
POLICY = ("sync_interval=1", "health_interval=0.5", "probe_timeout=2")


@dataclass(frozen=True)
class Stack:
    """A running product on simulated clouds."""

    dir: Path
    clouds: Simulator
    facts: dict[str, Any]

    def dumont(self, *arguments: str) -> str:
        done = self.tried(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tried(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "cli", "--dir", str(self.dir), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.dumont("workspace", "show", name, "-o", "json"))
        return found


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("adopt")
    with simulator(directory / "clouds", boot_seconds=0.2) as clouds:
        variables = {
            **FAST,
            "DUMONT_VAST_URL": clouds.vast_url,
            "DUMONT_GCE_URL": clouds.gce_url,
            "DUMONT_VAST_API_KEY": clouds.keys["vast"],
            "DUMONT_VAST_READ_KEY": clouds.keys["vast_read"],
            "DUMONT_GCE_PROJECT": clouds.keys["gce_project"],
            "DUMONT_GCE_SSH_PORT": str(clouds.gce_ssh_port),
        }
        up = [sys.executable, "-m", "cli", "up", "--embedded", "--dir", str(directory / "stack")]
        done = subprocess.run(
            [*up, "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **variables},
        )
        assert done.returncode == 0, done.stderr
        try:
            yield Stack(directory / "stack", clouds, json.loads(done.stdout.splitlines()[-1]))
        finally:
            subprocess.run(
                [*_DOWN, "--dir", str(directory / "stack")],
                check=True,
                capture_output=True,
            )


def a_gpu_with_data(clouds: Simulator, public_key: str) -> dict[str, Any]:
    """Rent a machine as a person would, let our key in, and put data on it."""
    headers = {"Authorization": f"Bearer {clouds.keys['vast']}"}
    with httpx.Client(base_url=clouds.vast_url, headers=headers, trust_env=False) as market:
        market.post("/api/v0/ssh/", json={"ssh_key": public_key}).raise_for_status()
        offers = market.post("/api/v0/bundles/", json={"type": "on-demand", "limit": 1}).json()
        answer = market.put(
            f"/api/v0/asks/{offers['offers'][0]['id']}/",
            json={
                "client_id": "me",
                "image": "mine",
                "disk": 10,
                "label": "my-own-gpu",
                "runtype": "ssh_direc ssh_proxy",
            },
        ).json()
        assert answer["success"], answer
    eventually(lambda: clouds.machine("my-own-gpu")["state"] == "running", lambda: "not running")
    machine = clouds.machine("my-own-gpu")
    for name, content in {
        "weights.bin": b"\x00\x01" * 50_000,
        "notes/plan.txt": b"keep me\n",
    }.items():
        path = Path(machine["root"]) / "workspace" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return machine


def without(state: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in names}


def everything_in(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Path to (mode, modification time, content)."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }


def test_an_adopted_gpu_is_copied_and_nothing_is_ever_written_over_it(stack: Stack) -> None:
    ready = httpx.get(f"{stack.facts['api_url']}/readyz", trust_env=False).json()
    machine = a_gpu_with_data(stack.clouds, ready["ssh_public_key"])
    tree = Path(machine["root"]) / "workspace"
    before = everything_in(tree)
    policy = [part for setting in POLICY for part in ("--policy", setting)]
    host = f"root@{machine['ip']}:{machine['port']}"
    stack.dumont("workspace", "add", "mine", "--ssh", host, *policy)
    eventually(lambda: stack.state("mine")["phase"] == "SYNCING", lambda: stack.state("mine"))
    standby = stack.state("mine")["standby"]["id"]
    copied = stack.clouds.tree(standby, "/var/lib/dumont/ready/tree")
    source = stack.clouds.tree("my-own-gpu", "/workspace")
    assert copied == source
    assert everything_in(tree) == before
    stack.dumont("failover", "mine", "--yes", "--reason", "maintenance")
    eventually(lambda: stack.state("mine")["serving"] == "standby", lambda: stack.state("mine"))
    eventually(lambda: stack.state("mine")["phase"] == "SYNCING", lambda: stack.state("mine"))
    assert stack.state("mine")["primary"]["id"] != "mine-adopted"
    assert everything_in(tree) == before, "a failover and a recovery left it alone too"


def test_files_that_were_encrypted_one_by_one_come_back_from_before(stack: Stack) -> None:
    ready = httpx.get(f"{stack.facts['api_url']}/readyz", trust_env=False).json()
    machine = a_gpu_with_data(stack.clouds, ready["ssh_public_key"])
    policy = [part for setting in POLICY for part in ("--policy", setting)]
    host = f"root@{machine['ip']}:{machine['port']}"
    stack.dumont("workspace", "add", "mine", "--ssh", host, *policy)
    eventually(lambda: stack.state("mine")["phase"] == "SYNCING", lambda: stack.state("mine"))
    good, moment = stack.clouds.tree("my-own-gpu", "/workspace"), datetime.now(UTC)
    standby = stack.state("mine")["standby"]["id"]

    def copied() -> bool:
        spoilt = stack.clouds.tree("my-own-gpu", "/workspace")
        return stack.clouds.tree(standby, "/var/lib/dumont/ready/tree") == spoilt

    for name, size in (("weights.bin", 100_000), ("notes/plan.txt", 8)):
        stack.clouds.write("my-own-gpu", f"/workspace/{name}", os.urandom(size))
        eventually(copied, "it is not copied")
    refused = stack.tried("failover", "mine", "--yes", "--before", "3d")
    assert refused.returncode == 1
    assert "no copy from before" in refused.stderr
    assert stack.state("mine")["phase"] == "SYNCING", "nothing was given up"
    stack.dumont("failover", "mine", "--yes", "--before", moment.isoformat())
    assert stack.clouds.tree(standby, "/var/lib/dumont/live/tree") == good
    eventually(lambda: stack.state("mine")["phase"] == "SYNCING", lambda: stack.state("mine"))
    primary = stack.state("mine")["primary"]["id"]
    assert primary != "mine-adopted"
    assert stack.clouds.tree(primary, "/workspace") == good


def test_the_state_folded_from_the_log_is_what_the_api_says(stack: Stack) -> None:
    stack.dumont("workspace", "add", "empty", *["--policy", "sync_interval=1"])
    eventually(lambda: stack.state("empty")["phase"] == "SYNCING", lambda: stack.state("empty"))
    live = {"lag", "primary", "standby", "billed", "candidate", "price_per_hour", "recovery"}

    def both() -> tuple[dict[str, Any], dict[str, Any]]:
        folded = json.loads(stack.dumont("state", "empty", "--from-log"))
        shown = stack.state("empty")
        return without(folded, live), without(shown, live)

    eventually(lambda: both()[0] == both()[1], both)
    stack.dumont("log", "verify")
