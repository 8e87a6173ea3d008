"""A GPU that already holds data is the source: its tree stays as it is, to the last byte."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.simulator import Simulator
from tests.support.stack import Stack
from tests.support.stack import stack as running_stack
from tests.support.waiting import eventually

POLICY = ("sync_interval=1", "health_interval=0.5", "probe_timeout=2")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("adopt")) as running:
        yield running


def a_gpu_with_data(clouds: Simulator, label: str, public_key: str) -> dict[str, Any]:
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
                "label": label,
                "runtype": "ssh_direc ssh_proxy",
            },
        ).json()
        assert answer["success"], answer
    eventually(lambda: clouds.machine(label)["state"] == "running", lambda: "not running")
    machine = clouds.machine(label)
    for name, content in {
        "weights.bin": b"\x00\x01" * 50_000,
        "notes/plan.txt": b"keep me\n",
    }.items():
        path = Path(machine["root"]) / "workspace" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return machine


def adopted(stack: Stack, name: str) -> dict[str, Any]:
    """A workspace on a GPU that a person rented; returns that machine, which has its name."""
    ready = stack.http.get("/readyz").json()
    machine = a_gpu_with_data(stack.clouds, name, ready["ssh_public_key"])
    policy = [part for setting in POLICY for part in ("--policy", setting)]
    host = f"root@{machine['ip']}:{machine['port']}"
    stack.dumont("workspace", "add", name, "--ssh", host, *policy)
    return machine


def protected(stack: Stack, name: str) -> dict[str, Any]:
    eventually(lambda: stack.state(name)["phase"] == "SYNCING", lambda: stack.state(name))
    return stack.state(name)


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
    tree = Path(adopted(stack, "mine")["root"]) / "workspace"
    before = everything_in(tree)
    standby = protected(stack, "mine")["standby"]["id"]
    copied = stack.clouds.tree(standby, "/var/lib/dumont/ready/tree")
    assert copied == stack.clouds.tree("mine", "/workspace")
    assert everything_in(tree) == before
    stack.dumont("failover", "mine", "--yes", "--reason", "maintenance")
    eventually(lambda: stack.state("mine")["serving"] == "standby", lambda: stack.state("mine"))
    assert protected(stack, "mine")["primary"]["id"] != "mine-adopted"
    assert everything_in(tree) == before, "a failover and a recovery left it alone too"
    stack.remove("mine")


def test_files_that_were_encrypted_one_by_one_come_back_from_before(stack: Stack) -> None:
    adopted(stack, "spoilt")
    standby = protected(stack, "spoilt")["standby"]["id"]
    good, moment = stack.clouds.tree("spoilt", "/workspace"), datetime.now(UTC)

    def copied() -> bool:
        there = stack.clouds.tree("spoilt", "/workspace")
        return stack.clouds.tree(standby, "/var/lib/dumont/ready/tree") == there

    for name, size in (("weights.bin", 100_000), ("notes/plan.txt", 8)):
        stack.clouds.write("spoilt", f"/workspace/{name}", os.urandom(size))
        eventually(copied, "it is not copied")
    refused = stack.tried("failover", "spoilt", "--yes", "--before", "3d")
    assert refused.returncode == 1
    assert "no copy from before" in refused.stderr
    assert stack.state("spoilt")["phase"] == "SYNCING", "nothing was given up"
    stack.dumont("failover", "spoilt", "--yes", "--before", moment.isoformat())
    assert stack.clouds.tree(standby, "/var/lib/dumont/live/tree") == good
    primary = protected(stack, "spoilt")["primary"]["id"]
    assert primary != "spoilt-adopted"
    assert stack.clouds.tree(primary, "/workspace") == good
    stack.remove("spoilt")


def test_the_state_folded_from_the_log_is_what_the_api_says(stack: Stack) -> None:
    stack.dumont("workspace", "add", "empty", *["--policy", "sync_interval=1"])
    protected(stack, "empty")
    live = {"lag", "primary", "standby", "billed", "candidate", "price_per_hour", "recovery"}

    def both() -> tuple[dict[str, Any], dict[str, Any]]:
        folded = json.loads(stack.dumont("state", "empty", "--from-log"))
        return without(folded, live), without(stack.state("empty"), live)

    eventually(lambda: both()[0] == both()[1], both)
    stack.dumont("log", "verify")
