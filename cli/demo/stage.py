"""Sets the stage: the simulated clouds and the product, as separate programs, and clears it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.demo.options import Options
from cli.embedded.control import ENDPOINT_COUNT
from cli.embedded.ports import free_block
from cli.embedded.settings import LOOPBACK
from cli.errors import CliError

MARKET_MACHINES_EACH = 6
"""Six of the market for each workspace: about four are within the policy, and the lost GPU keeps
its own until the recovery is complete."""
START_SECONDS = 90.0
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where everything is. ``dir`` is the embedded stack's, None for one that runs elsewhere."""

    api_url: str
    api_key: str
    control_url: str
    vast_url: str
    vast_key: str
    dir: Path | None

    def pids(self, service: str) -> list[int]:
        """The processes of a child of the embedded stack, as they are now."""
        if self.dir is None:
            raise CliError("this fault needs the embedded stack", "run it without --url")
        document = json.loads((self.dir / "run.json").read_text())
        return [int(pid) for pid in document["pids"].get(service, [])]


@asynccontextmanager
async def embedded(
    directory: Path, options: Options, extra: Mapping[str, str]
) -> AsyncIterator[Stage]:
    """Simulator and stack in ``directory``; both are ended afterwards unless ``keep``."""
    argv = [sys.executable, "-m", "simulator", "--dir", str(directory / "clouds"), "--seed", "1"]
    argv += ["--gce-ssh-port", "0"]
    argv += ["--market-machines", str(MARKET_MACHINES_EACH * max(4, options.workspaces))]
    simulator = await _program(argv, directory / "simulator.log", os.environ)
    try:
        clouds = await _first_line(simulator, "the simulator", directory / "simulator.log")
        environment = {
            **os.environ,
            **options.environment,
            "DUMONT_VAST_URL": clouds["vast_url"],
            "DUMONT_GCE_URL": clouds["gce_url"],
            "DUMONT_VAST_API_KEY": clouds["keys"]["vast"],
            "DUMONT_VAST_READ_KEY": clouds["keys"]["vast_read"],
            "DUMONT_GCE_PROJECT": clouds["keys"]["gce_project"],
            "DUMONT_GCE_SSH_PORT": str(clouds["gce_ssh_port"]),
            "DUMONT_INSTALLATION": "demo",
            **extra,
        }
        stack_dir = directory / "stack"
        up = ["up", "--embedded", "--dir", str(stack_dir), "--json"]
        if options.workspaces > ENDPOINT_COUNT:
            first = free_block(LOOPBACK, options.workspaces)
            up += ["--endpoint-ports", f"{first}-{first + options.workspaces - 1}"]
        overrides = [part for name, value in extra.items() for part in ("--env", f"{name}={value}")]
        try:
            facts = await _dumont([*up, *overrides], environment)
            yield Stage(
                api_url=facts["api_url"],
                api_key=facts["api_key"],
                control_url=clouds["control_url"],
                vast_url=clouds["vast_url"],
                vast_key=clouds["keys"]["vast"],
                dir=stack_dir,
            )
        finally:
            if not options.keep:
                await _dumont(
                    ["down", "--dir", str(stack_dir), "--delete-data", "--yes"], os.environ
                )
    finally:
        if not options.keep:
            await _end(simulator)


async def _program(
    argv: list[str], log: Path, environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    with log.open("ab") as errors:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
            start_new_session=True,
        )


async def _first_line(process: asyncio.subprocess.Process, what: str, log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = b""
    with contextlib.suppress(TimeoutError):
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    try:
        facts: dict[str, Any] = json.loads(line)
    except ValueError:
        last = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise CliError(f"{what} did not start: {' / '.join(last) or 'it said nothing'}") from None
    return facts


async def _dumont(arguments: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a verb of our own command line, as a person would."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
    )
    stdout, stderr = await process.communicate()
    if process.returncode != 0:
        raise CliError(stderr.decode(errors="replace").strip() or f"dumont {arguments[0]} failed")
    lines = stdout.decode().strip().splitlines()
    facts: dict[str, Any] = json.loads(lines[-1]) if "--json" in arguments else {}
    return facts


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
