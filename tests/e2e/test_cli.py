"""The embedded stack through its front door: ``dumont up``, the reading verbs, ``dumont down``."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import nats
import pytest

from cli.embedded import processes
from tests.support.waiting import PATIENCE, eventually

PROJECT = Path(__file__).resolve().parents[2]
Facts = dict[str, Any]


def dumont(
    *arguments: str, check: bool = True, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line as another program would."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("DUMONT_")} | dict(env or {})
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=PROJECT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
    )
    assert not check or done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facts]:
    """What ``up`` printed of a stack with two recoveries, ended afterwards."""
    directory = tmp_path_factory.mktemp("stack")
    up = dumont("up", "--embedded", "--dir", str(directory), "--replicas", "recovery=2", "--json")
    facts = json.loads(up.stdout)
    try:
        yield facts
    finally:
        dumont("down", "--dir", str(directory), "--delete-data", "--yes")
        assert not directory.exists()


def pids(facts: Facts) -> dict[str, list[int]]:
    document = json.loads((Path(facts["dir"]) / "run.json").read_text())
    found: dict[str, list[int]] = document["pids"]
    return found


def ready(facts: Facts, service: str) -> bool:
    document = json.loads((Path(facts["dir"]) / "run.json").read_text())
    return all(c["ready"] for c in document["children"].values() if c["service"] == service)


def test_up_prints_everything_that_other_tooling_needs(stack: Facts) -> None:
    assert stack["api_url"].startswith("http://127.0.0.1:")
    assert stack["endpoint_host"] == "127.0.0.1"
    assert len(stack["endpoint_ports"]) == 10
    assert len(stack["pids"]["recovery"]) == 2
    assert {"nats", "postgres", "haproxy", "health", "sync", "api"} <= stack["pids"].keys()
    for group in stack["pids"].values():
        for pid in group:
            os.kill(pid, 0)


def test_a_second_up_says_so_and_prints_the_same(stack: Facts) -> None:
    again = dumont("up", "--embedded", "--dir", stack["dir"], "--json")
    assert "already runs" in again.stderr
    told = json.loads(again.stdout)
    assert {k: told[k] for k in ("api_url", "api_key", "nats_url", "log_dsn")} == {
        k: stack[k] for k in ("api_url", "api_key", "nats_url", "log_dsn")
    }


def test_the_printed_log_dsn_reads_and_writes_nothing(stack: Facts) -> None:
    async def look() -> int:
        connection = await asyncpg.connect(stack["log_dsn"])
        try:
            with pytest.raises(asyncpg.PostgresError):
                await connection.execute("DELETE FROM event_log")
            return int(await connection.fetchval("SELECT count(*) FROM event_log"))
        finally:
            await connection.close()

    assert asyncio.run(look()) >= 0


def test_the_printed_nats_user_hears_and_cannot_speak(stack: Facts) -> None:
    async def look() -> str:
        refused: asyncio.Queue[Exception] = asyncio.Queue()
        client = await nats.connect(stack["nats_url"], error_cb=refused.put)
        try:
            await client.subscribe("dumont.events.>")
            await client.publish("dumont.events.w.FailoverCompleted", b"{}")
            async with asyncio.timeout(PATIENCE):
                return str(await refused.get())
        finally:
            await client.close()

    assert "permissions violation for publish" in asyncio.run(look()).lower()


def test_reading_verbs_find_the_stack_by_its_directory(stack: Facts) -> None:
    told = dumont("--dir", stack["dir"], "status", "-o", "json")
    assert json.loads(told.stdout) == []
    told = dumont("--dir", stack["dir"], "events", "-o", "json")
    assert json.loads(told.stdout) == []
    told = dumont("--dir", stack["dir"], "status")
    assert told.stdout == ""
    assert "no workspace yet" in told.stderr


def test_the_same_stack_is_reached_by_url_and_key(stack: Facts, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(stack["api_key"])
    told = dumont(
        "--url", stack["api_url"], "--key-file", str(key), "workspace", "list", "-o", "json"
    )
    assert json.loads(told.stdout) == []


def test_a_wrong_key_is_refused_in_one_line(stack: Facts, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("dk_wrong")
    told = dumont("--url", stack["api_url"], "--key-file", str(key), "status", check=False)
    assert told.returncode == 1
    assert "key" in told.stderr


@pytest.mark.parametrize(
    "arguments", [["state", "nobody"], ["state", "nobody", "--from-log"], ["timeline", "nobody"]]
)
def test_an_unknown_workspace_is_one_line(stack: Facts, arguments: list[str]) -> None:
    told = dumont("--dir", stack["dir"], *arguments, check=False)
    assert told.returncode == 1
    assert "nobody" in told.stderr
    assert told.stdout == ""


def test_an_empty_log_is_whole(stack: Facts) -> None:
    told = dumont("--dir", stack["dir"], "log", "verify", "-o", "json")
    assert json.loads(told.stdout) == {"ok": True, "events": 0, "findings": []}


@pytest.mark.parametrize("head", ["nonsense", "1:00"])
def test_a_head_that_is_none_is_refused_in_words(stack: Facts, head: str) -> None:
    told = dumont("--dir", stack["dir"], "log", "verify", "--head", head, check=False)
    assert told.returncode == 2
    assert "POSITION:HASH" in told.stderr


def test_a_log_without_the_head_that_was_exported_is_not_whole(
    stack: Facts, tmp_path: Path
) -> None:
    heads = tmp_path / "heads"
    heads.write_text(f"999:{'00' * 32} 2026-01-01T00:00:00+00:00\n")
    told = dumont(
        "--dir", stack["dir"], "log", "verify", "--head", str(heads), "-o", "json", check=False
    )
    assert told.returncode == 1
    [finding] = json.loads(told.stdout)["findings"]
    assert finding["position"] == 999


def test_the_doctor_names_what_is_not_configured(stack: Facts) -> None:
    told = dumont("--dir", stack["dir"], "doctor", "-o", "json")
    findings = {f["check"]: f for f in json.loads(told.stdout)}
    assert findings["api"]["health"] == "ok"
    assert findings["postgres"]["health"] == "ok"
    assert findings["vast"]["health"] == "warning"
    assert "DUMONT_VAST_API_KEY" in findings["vast"]["hint"]


def test_the_log_alone_tells_the_same_state_as_the_api(stack: Facts) -> None:
    here = ("--dir", stack["dir"])
    dumont(*here, "workspace", "add", "train", "--policy", "gpu_price_max=0.3")
    dumont(*here, "pause", "train", "--yes", "--reason", "a test")

    def both() -> tuple[Facts, Facts] | None:
        folded = json.loads(dumont(*here, "state", "train", "--from-log").stdout)
        told = json.loads(dumont(*here, "state", "train").stdout)
        # Recovery goes on in between: compare two that are at the same place of the log.
        return (folded, told) if folded["position"] == told["position"] else None

    folded, told = eventually(both, "both are at the same position")
    assert folded == told
    assert told["paused_reason"] == "a test"
    assert told["policy"]["gpu_price_max"] == 0.3


def test_what_happened_is_told_in_order(stack: Facts) -> None:
    told = dumont("--dir", stack["dir"], "timeline", "train", "-o", "json")
    entries = json.loads(told.stdout)
    positions = [entry["position"] for entry in entries]
    assert positions == sorted(set(positions))
    assert [e["event"] for e in entries][:2] == ["RequestReceived", "WorkspaceRegistered"]


def test_following_the_events_prints_one_json_object_a_line(stack: Facts) -> None:
    follower = subprocess.Popen(
        [sys.executable, "-m", "cli", "--dir", stack["dir"], "events", "-f", "-o", "json"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout is not None
        lines = [json.loads(follower.stdout.readline()) for _ in range(2)]
    finally:
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=PATIENCE)
    assert [line["position"] for line in lines] == [1, 2]
    assert lines[0]["type"] == "dumont.RequestReceived.v1"
    assert follower.returncode == 130


def test_a_refused_request_says_why_and_ends_with_1(stack: Facts) -> None:
    told = dumont("--dir", stack["dir"], "failover", "train", "--yes", check=False)
    assert told.returncode == 1
    assert "refused" in told.stderr


def test_a_taken_name_is_one_line(stack: Facts) -> None:
    told = dumont("--dir", stack["dir"], "workspace", "add", "train", check=False)
    assert told.returncode == 1
    assert "train" in told.stderr


@pytest.mark.parametrize("service", ["health", "api", "recovery", "nats", "postgres", "haproxy"])
def test_whatever_is_killed_comes_back_ready(stack: Facts, service: str) -> None:
    (victim, *_) = pids(stack)[service]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in pids(stack).get(service, [victim]), "its end is noticed")
    eventually(lambda: ready(stack, service) and pids(stack).get(service), "it is ready again")
    eventually(
        lambda: dumont("--dir", stack["dir"], "status", check=False).returncode == 0,
        "the api answers",
    )


def test_down_ends_exactly_its_own_even_without_its_supervisor(tmp_path: Path) -> None:
    directory = str(tmp_path / "stack")
    try:
        facts = json.loads(dumont("up", "--embedded", "--dir", directory, "--json").stdout)
        os.kill(facts["supervisor"], signal.SIGKILL)
    finally:
        told = json.loads(dumont("down", "--dir", directory, "--json").stdout)
    everything = [pid for group in facts["pids"].values() for pid in group]
    assert told["ended"] >= len(everything)
    assert not [pid for pid in everything if processes.identify(pid)]
    log = Path(directory, "logs", "postgres.log").read_text()
    assert "database system is shut down" in log  # cleanly, not by force
    for port in facts["endpoint_ports"]:
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))
    again = dumont("down", "--dir", directory, "--delete-data", "--yes")
    assert "nothing runs" in again.stderr


@pytest.fixture
def clouds(tmp_path: Path) -> Iterator[Facts]:
    """The simulated clouds, started as a person starts them."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cli",
            "simulator",
            "--dir",
            str(tmp_path / "clouds"),
            "--gce-ssh-port=0",
        ],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.mark.skipif(os.geteuid() != 0, reason="simulated machines are namespaces: root only")
def test_a_directory_is_uploaded_and_reached_through_the_endpoint(
    clouds: Facts, tmp_path: Path
) -> None:
    directory = str(tmp_path / "stack")
    source = tmp_path / "data"
    (source / "deep" / "empty").mkdir(parents=True)
    (source / "deep" / "a file with spaces").write_text("kept")
    (source / "link").symlink_to("deep")
    environment = {
        "DUMONT_VAST_URL": clouds["vast_url"],
        "DUMONT_VAST_API_KEY": clouds["keys"]["vast"],
        "DUMONT_GCE_URL": clouds["gce_url"],
        "DUMONT_GCE_PROJECT": clouds["keys"]["gce_project"],
        "DUMONT_GCE_SSH_PORT": str(clouds["gce_ssh_port"]),
        "DUMONT_PROVIDER_PACE": "0.02",
        "DUMONT_POLL_INTERVAL": "0.3",
    }
    here = ("--dir", directory)
    try:
        dumont("up", "--embedded", "--dir", directory, env=environment)
        policy = ("--policy", "auto_recovery=false")
        dumont(*here, "workspace", "add", "train", "--from", str(source), *policy)
        told = dumont(*here, "ssh", "train", "cat '/workspace/deep/a file with spaces'")
        assert told.stdout == "kept"
        assert told.stderr == ""  # nothing to warn of
        config = tmp_path / "config"
        config.write_text(dumont(*here, "ssh-config", "train").stdout)
        listed = subprocess.run(
            ["ssh", "-F", str(config), "train", "ls /workspace/ /workspace/deep"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert listed.stdout.split() == [
            *("/workspace/:", "deep", "link"),
            *("/workspace/deep:", "a", "file", "with", "spaces", "empty"),
        ]
        sealed = eventually(
            lambda: json.loads(dumont(*here, "state", "train").stdout)["last_generation"],
            "the upload is sealed",
        )
        assert sealed["files"] >= 1
        dumont(*here, "workspace", "remove", "train", "--yes")
        eventually(
            lambda: not json.loads(dumont(*here, "workspace", "list", "-o", "json").stdout),
            "its machines are seen to be gone",
        )
    finally:
        dumont("down", "--dir", directory, "--delete-data", "--yes")
