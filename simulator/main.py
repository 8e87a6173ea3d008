"""Puts the simulated clouds together and runs them until somebody ends them."""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulator import catalogue
from simulator.control import control_app
from simulator.faults import Faults
from simulator.gce.api import gce_app
from simulator.gce.engine import Engine
from simulator.ledger import Ledger
from simulator.machine import NEEDS_ROOT
from simulator.network import Network, NoAddressError
from simulator.options import Options
from simulator.vast.access import Gatekeeper, Keys
from simulator.vast.api import vast_app
from simulator.vast.market import Market
from simulator.web import App, FaultyProvider, Server

_DEBT_CHECK_SECONDS = 1.0
_PROGRAMS = ("/usr/sbin/sshd", "/usr/bin/ssh-keygen")


class StartError(Exception):
    """The simulator cannot start; the text says what to do."""


def run(options: Options) -> int:
    """Serve until SIGTERM or SIGINT; prints one JSON line on standard output when ready.

    Returns the exit code; on a fault of the surroundings one line on standard error says what to
    do about it.
    """
    try:
        check_surroundings()
        with _own(options.directory):
            asyncio.run(serve(options, _announce))
    except (StartError, NoAddressError) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 1
    return 0


def _try_namespaces() -> None:
    """A container often is root and still may not mount."""
    command = ("unshare", "--mount", "--pid", "--fork", "mount", "-t", "proc", "proc", "/proc")
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        raise StartError(f"{NEEDS_ROOT} ({tried.stderr.strip()})")


def check_surroundings() -> None:
    """Whether machines can run here. Raises StartError."""
    if sys.platform != "linux":
        raise StartError("simulated machines need Linux namespaces: run it on Linux or in Docker")
    if os.geteuid() != 0:
        raise StartError(NEEDS_ROOT)
    _try_namespaces()
    missing = [program for program in _PROGRAMS if not Path(program).exists()]
    if missing:
        names = " and ".join(missing)
        raise StartError(f"no {names} here: apt-get install openssh-server openssh-client")


@contextlib.contextmanager
def _own(directory: Path) -> Iterator[None]:
    """Take the directory for this simulator alone, and begin afresh in it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StartError(f"--dir {directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        text = f"another simulator runs in {directory}: choose another --dir, or end that one"
        raise StartError(text) from error
    try:
        shutil.rmtree(directory / "machines", ignore_errors=True)
        yield
    finally:
        shutil.rmtree(directory / "machines", ignore_errors=True)
        os.close(lock)


def _announce(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


_SSH_PORTS = (22, 2222, 22022)


async def _ssh_port(options: Options, network: Network) -> int:
    """The port of Compute Engine's machines. Raises NoAddressError when it is never free."""
    *first, last = (options.gce_ssh_port,) if options.gce_ssh_port else _SSH_PORTS
    for port in first:
        try:
            await network.give_back(await network.take(port=port))
        except NoAddressError:
            continue  # this computer's own sshd has it, at every address
        return port
    await network.give_back(await network.take(port=last))
    return last


async def serve(options: Options, announce: Callable[[dict[str, Any]], None]) -> None:
    """Serve both clouds and the control port until a signal; then leave nothing behind."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    network = Network(options.machine_network, options.machine_interface)
    try:
        options = replace(options, gce_ssh_port=await _ssh_port(options, network))
        addresses = [await network.take() for _ in range(options.market_machines)]
        clouds = _Clouds(options, network, addresses)
        servers = _listen(options, clouds)
        announce(_addresses(options, servers, clouds))
        await _serve_until(told, servers, clouds)
    finally:
        await network.close()


async def _serve_until(told: asyncio.Event, servers: list[Server], clouds: "_Clouds") -> None:
    """Serve until told to end, or until a part of it fails; then stop every machine."""
    serving = [asyncio.create_task(server.run_until_told()) for server in servers]
    others = [
        asyncio.create_task(told.wait()),
        asyncio.create_task(_watch_debts(clouds.market)),
    ]
    try:
        done, _ = await asyncio.wait([*serving, *others], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for server in servers:
            server.should_exit = True
        for task in others:
            task.cancel()
        await asyncio.gather(*serving, *others, return_exceptions=True)
        await clouds.market.close()
        await clouds.engine.close()


class _Clouds:
    """Everything that the three ports share."""

    def __init__(self, options: Options, network: Network, addresses: list[str]) -> None:
        self.keys = Keys(full=secrets.token_hex(32), read=secrets.token_hex(32))
        self.ledger = Ledger()
        self.faults = Faults()
        self.market = Market(
            options=options,
            slots=catalogue.slots(options.seed, addresses),
            network=network,
            ledger=self.ledger,
            faults=self.faults,
            clock=time.time,
        )
        self.engine = Engine(
            project="simulated-project",
            options=options,
            network=network,
            ledger=self.ledger,
            faults=self.faults,
            clock=time.time,
        )


def _listen(options: Options, clouds: _Clouds) -> list[Server]:
    gatekeeper = Gatekeeper(keys=clouds.keys, faults=clouds.faults, rate_scale=options.rate_scale)
    vast = vast_app(
        market=clouds.market,
        gatekeeper=gatekeeper,
        faults=clouds.faults,
        clock=time.time,
        api_key=clouds.keys.full,
    )
    gce = gce_app(engine=clouds.engine, faults=clouds.faults)
    control = control_app(
        market=clouds.market,
        engine=clouds.engine,
        ledger=clouds.ledger,
        faults=clouds.faults,
        gce_ssh_port=options.gce_ssh_port,
        clock=time.time,
    )
    apps: tuple[App, ...] = (
        FaultyProvider(vast, provider="vast", faults=clouds.faults),
        FaultyProvider(gce, provider="gce", faults=clouds.faults),
        control,
    )
    ports = [options.port + n if options.port else 0 for n in range(3)]
    try:
        return [Server(app, options.host, port) for app, port in zip(apps, ports, strict=True)]
    except OSError as error:
        text = f"cannot listen at {options.host} on ports {ports}: {error.strerror}"
        raise StartError(f"{text}; choose another --port, or 0 for free ones") from error


def _addresses(options: Options, servers: list[Server], clouds: _Clouds) -> dict[str, Any]:
    host = options.public_host or options.host
    urls = [f"http://{host}:{server.bound_port}" for server in servers]
    return {
        "vast_url": urls[0],
        "gce_url": urls[1],
        "control_url": urls[2],
        "keys": {
            "vast": clouds.keys.full,
            "vast_read": clouds.keys.read,
            "gce_project": clouds.engine.project,
        },
        "gce_ssh_port": options.gce_ssh_port,
        "pid": os.getpid(),
    }


async def _watch_debts(market: Market) -> None:
    while True:
        await asyncio.sleep(_DEBT_CHECK_SECONDS)
        await market.stop_debtors()
