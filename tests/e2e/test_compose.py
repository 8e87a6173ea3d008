"""The full stack in containers as a person meets it: two commands, with and without the clouds."""

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
ENDPOINT_COUNT = 10
UP_SECONDS = 600.0
DEMO_SECONDS = 240.0
NO_ENGINE = "NO DOCKER ENGINE ANSWERS: the compose stack was NOT tested"

pytestmark = [pytest.mark.compose, pytest.mark.timeout(UP_SECONDS + DEMO_SECONDS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A compose project of its own, at free ports, with its person's files in ``person``."""

    project: str
    environment: dict[str, str]
    api_url: str
    person: Path

    def compose(self, *arguments: str, seconds: float = UP_SECONDS) -> str:
        """Run docker compose with every profile in reach; returns what it printed."""
        command = ["docker", "compose", "-f", str(ROOT / "deploy/compose.yml")]
        done = subprocess.run(
            [*command, "-p", self.project, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-4000:]}"
        return done.stdout

    def dumont(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run our command line against the stack, which it has to find the key of by itself."""
        return subprocess.run(
            [sys.executable, "-m", "cli", "--url", self.api_url, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEMO_SECONDS,
            check=False,
        )

    def ready(self) -> dict[str, Any]:
        """What /readyz says."""
        answer: dict[str, Any] = httpx.get(f"{self.api_url}/readyz", trust_env=False).json()
        return answer

    def says(self, service: str, *command: str) -> tuple[int, str]:
        """Run a command in the container of a service; its exit code and what it printed."""
        done = subprocess.run(
            ["docker", "exec", f"{self.project}-{service}-1", *command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The stack, up without profile and without any key; taken down with all that it kept."""
    if not engine_answers():
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\n##### {NO_ENGINE} #####", file=sys.stderr, flush=True)
        pytest.skip(NO_ENGINE)
    stack = described(tmp_path_factory.mktemp("compose"))
    try:
        stack.compose("up", "--build", "--wait")
        yield stack
    finally:
        stack.compose("--profile", "simulator", "down", "--volumes", "--timeout", "5")


def engine_answers() -> bool:
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def described(directory: Path) -> Stack:
    """A stack that shares nothing with another on this machine but the images."""
    api, control, vast = (f"127.0.0.1:{port}" for port in free_ports(3))
    first = free_block(ENDPOINT_COUNT)
    ours = {
        "DUMONT_API_ADDRESS": api,
        "DUMONT_CONTROL_ADDRESS": control,
        "DUMONT_SIMULATED_VAST_ADDRESS": vast,
        "DUMONT_ENDPOINT_PORTS": f"{first}-{first + ENDPOINT_COUNT - 1}",
        "DUMONT_RUN_DIR": str(directory),
        "DUMONT_DIR": str(directory / "cli"),
    }
    others = {k: v for k, v in os.environ.items() if not k.startswith(("DUMONT_", "COMPOSE_"))}
    return Stack(
        project=f"dumont-test-{secrets.token_hex(3)}",
        environment=others | ours,
        api_url=f"http://{api}",
        person=directory,
    )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def free_block(count: int) -> int:
    """The first of so many free ports in a row, below those that outgoing connections take."""
    for _ in range(100):
        first = 20_000 + secrets.randbelow(11_000)
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError(f"no {count} free ports in a row")


def is_free(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) != 0


def test_without_any_key_the_stack_is_healthy_and_names_what_is_not_configured(
    stack: Stack,
) -> None:
    ready = stack.ready()
    assert ready["ready"] is True
    assert ready["not_configured"] == ["gce", "vast"]
    doctor = stack.dumont("doctor", "-o", "json")
    assert doctor.returncode == 0, doctor.stderr
    warned = {f["check"] for f in json.loads(doctor.stdout) if f["health"] == "warning"}
    assert warned == {"gce", "vast"}


def test_a_service_can_read_its_own_secrets_and_no_others(stack: Stack) -> None:
    others = ("vault", "nats", "postgres", "haproxy", "setup", "health", "sync", "recovery", "api")
    for service in ("nats", "haproxy", "health", "sync", "recovery", "api"):
        for other in others:
            code, _ = stack.says(service, "ls", f"/run/dumont/{other}")
            assert (code == 0) == (other == service), f"{service} and the secrets of {other}"


def test_nobody_can_write_into_the_program_that_runs(stack: Stack) -> None:
    for service in ("health", "sync", "recovery", "api"):
        assert stack.says(service, "touch", "/opt/dumont/services/x")[0] != 0
        assert stack.says(service, "id", "-u")[1].strip() != "0"


def test_the_log_is_verified_from_inside_by_a_role_that_can_only_read(stack: Stack) -> None:
    code, said = stack.says("api", "python", "-m", "cli", "log", "verify")
    assert code == 0, said


def test_with_the_simulated_clouds_beside_it_the_demo_keeps_every_promise(stack: Stack) -> None:
    key = (stack.person / "api_key").read_text()
    stack.compose("--profile", "simulator", "up", "--build", "--wait")
    assert (stack.person / "api_key").read_text() == key, "a second start keeps what the first made"
    eventually(lambda: not stack.ready()["not_configured"], "the simulated clouds are not found")
    done = stack.dumont("demo", "--size", "16", "--json")
    assert done.stdout, done.stderr[-3000:]
    result = json.loads(done.stdout)
    broken = [promise for promise in result["promises"] if not promise["held"]]
    outcome = (done.returncode, result["ok"], broken, result["failure"])
    assert outcome == (0, True, [], ""), done.stderr[-4000:]
    assert result["restore_verified"] is True
    assert result["machines_billed"] == 1
