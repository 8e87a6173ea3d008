"""The whole product as ``dumont up --embedded`` starts it, on simulated clouds."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from cli.embedded import run_file
from cli.embedded.run_file import Running
from tests.support.simulator import Simulator, simulator
from tests.support.waiting import PATIENCE

Json = dict[str, Any]

FAST = {
    "DUMONT_DRIVE_INTERVAL": "0.2",
    "DUMONT_POLL_INTERVAL": "0.2",
    "DUMONT_SWEEP_INTERVAL": "0.5",
    "DUMONT_PROVIDER_PACE": "0.02",
    "DUMONT_SETTLE_SECONDS": "3",
    "DUMONT_RSYNC_OLDEST": "3.1.3",
}
FAST_POLICY: Json = {
    "sync_interval": 0.5,
    "health_interval": 0.4,
    "probe_timeout": 3,
    "cooldown": 0,
    "search_retry_wait": 0.3,
    "ssh_timeout": 60,
    "restore_timeout": 120,
    "freeze_timeout": 60,
}
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A running product. ``failpoints`` is the directory that arms places in its services."""

    dir: Path
    clouds: Simulator
    facts: Json
    http: httpx.Client
    failpoints: Path

    def dumont(self, *arguments: str) -> str:
        """Run a verb of the command line against it; its standard output."""
        done = self.tried(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tried(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The same, whatever comes of it."""
        return _dumont("--dir", str(self.dir), *arguments)

    def register(self, name: str, **more: object) -> None:
        body = {"name": name, "policy": FAST_POLICY, **more}
        answer = self.http.post("/v1/workspaces", json=body)
        assert answer.is_success, answer.text

    def ask(self, name: str, verb: str, **arguments: object) -> None:
        """A request as a person makes it; it has been heard when this returns."""
        answer = self.http.post(f"/v1/workspaces/{name}/{verb}", json=arguments)
        assert answer.is_success, answer.text

    def remove(self, name: str) -> None:
        answer = self.http.delete(f"/v1/workspaces/{name}")
        assert answer.is_success, answer.text

    def state(self, name: str) -> Json:
        found: Json = self.http.get(f"/v1/workspaces/{name}").raise_for_status().json()
        return found

    def query(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the log's database itself, with the role that can only read."""

        async def ask() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.facts["log_dsn"])
            try:
                return list(await connection.fetch(sql, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def child(self, name: str) -> Running:
        """A child of the supervisor as it is now, such as ``recovery-1``."""
        run = run_file.read(self.dir / "run.json")
        assert run is not None, "no stack runs"
        return run.children[name]

    def arm(self, place: str, what: str = "kill") -> None:
        """The next process that passes ``place`` is killed or stopped there, once."""
        (self.failpoints / place).write_text(what)

    def armed(self) -> set[str]:
        """The places that nobody has passed yet."""
        return {path.name for path in self.failpoints.iterdir()}


@contextmanager
def stack(
    directory: Path, *options: str, variables: Mapping[str, str] = FAST, **clouds: Any
) -> Iterator[Stack]:
    """Bring everything up in ``directory`` and end it; ``options`` are those of ``dumont up``."""
    failpoints = directory / "failpoints"
    failpoints.mkdir()
    here = ("--dir", str(directory / "stack"))
    with simulator(directory / "clouds", **{"boot_seconds": 0.2} | clouds) as simulated:
        environment = {
            **ENVIRONMENT,
            **variables,
            "DUMONT_FAILPOINTS": str(failpoints),
            "DUMONT_VAST_URL": simulated.vast_url,
            "DUMONT_GCE_URL": simulated.gce_url,
            "DUMONT_VAST_API_KEY": simulated.keys["vast"],
            "DUMONT_VAST_READ_KEY": simulated.keys["vast_read"],
            "DUMONT_GCE_PROJECT": simulated.keys["gce_project"],
            "DUMONT_GCE_SSH_PORT": str(simulated.gce_ssh_port),
        }
        up = ("up", "--embedded", *here, "--json", *options)
        done = _dumont(*up, environment=environment)
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout.splitlines()[-1])
        headers = {"Authorization": f"Bearer {facts['api_key']}"}
        try:
            with httpx.Client(
                base_url=facts["api_url"], headers=headers, timeout=30, trust_env=False
            ) as http:
                yield Stack(
                    dir=directory / "stack",
                    clouds=simulated,
                    facts=facts,
                    http=http,
                    failpoints=failpoints,
                )
        finally:
            down = _dumont("down", *here, *(() if _kept() else ("--delete-data", "--yes")))
            assert down.returncode == 0, down.stderr


def _kept() -> bool:
    """``DUMONT_TEST_KEEP=1`` leaves a stack's data behind, for a look at its logs."""
    return bool(os.environ.get("DUMONT_TEST_KEEP"))


def _dumont(
    *arguments: str, environment: Mapping[str, str] = ENVIRONMENT
) -> "subprocess.CompletedProcess[str]":
    command: Sequence[str] = (sys.executable, "-m", "cli", *arguments)
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**environment},
        timeout=PATIENCE,
    )
