"""Runs the simulated clouds in the compose stack, and tells the stack that they are there.

The services learn addresses and keys from a shared directory, each only what is its own; the
person who runs the demo, from a directory of theirs.
"""

import ipaddress
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

HOST = "simulator"
"""Our name in the compose stack."""

VAST_PORT = 8001
"""Compute Engine and the control port are on the next two, as the simulator has it."""

INTERFACE = "eth0"
CLOUDS = Path("/run/clouds")
PERSON = Path("/run/person")


def machine_network(interface: str) -> str:
    """The upper half of the network that the interface is in: containers come from below."""
    shown = subprocess.run(
        ["ip", "-json", "-4", "addr", "show", "dev", interface],
        capture_output=True,
        check=True,
        text=True,
    )
    address = json.loads(shown.stdout)[0]["addr_info"][0]
    network = ipaddress.ip_interface(f"{address['local']}/{address['prefixlen']}").network
    return str(list(network.subnets())[1])


def environment(line: Mapping[str, Any]) -> str:
    """What the services are told: no secret, but where each finds its own."""
    variables = {
        "DUMONT_VAST_URL": line["vast_url"],
        "DUMONT_VAST_API_KEY_FILE": f"{CLOUDS}/recovery",
        "DUMONT_VAST_READ_KEY_FILE": f"{CLOUDS}/health",
        "DUMONT_GCE_URL": line["gce_url"],
        "DUMONT_GCE_PROJECT": line["keys"]["gce_project"],
        "DUMONT_GCE_ZONES": "",
        "no_proxy": HOST,
        "NO_PROXY": HOST,
    }
    # A line that differs each time: the services must notice other keys at the same places.
    lines = [f"# clouds {secrets.token_hex(4)}"]
    lines += [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([*lines, ""])


def write(path: Path, text: str, owner: tuple[int, int], mode: int) -> None:
    """Replace a file whole."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    os.chown(new, *owner)
    new.chmod(mode)
    new.replace(path)


def announce(line: Mapping[str, Any]) -> None:
    """Tell the services, and the person. Raises OSError."""
    keys = line["keys"]
    for service, key in (("recovery", keys["vast"]), ("health", keys["vast_read"])):
        uid, _, gid = os.environ[f"DUMONT_OWNER_{service.upper()}"].partition(":")
        write(CLOUDS / service, key, (int(uid), int(gid)), 0o400)
    write(CLOUDS / "environment", environment(line), (0, 0), 0o444)
    place = PERSON.stat()
    outside = {
        "control_url": f"http://{os.environ['DUMONT_CONTROL_ADDRESS']}",
        "vast_url": f"http://{os.environ['DUMONT_SIMULATED_VAST_ADDRESS']}",
        "vast_key": keys["vast"],
    }
    text = json.dumps(outside) + "\n"
    write(PERSON / "simulator.json", text, (place.st_uid, place.st_gid), 0o600)


def main() -> int:
    """Serve until SIGTERM; returns the simulator's exit code."""
    command = [sys.executable, "-m", "simulator", "--dir", "/var/lib/simulator", "--seed", "1"]
    command += ["--host", "0.0.0.0", "--public-host", HOST, "--port", str(VAST_PORT)]  # noqa: S104
    command += ["--machine-network", machine_network(INTERFACE), "--machine-interface", INTERFACE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:

        def end(number: int, _: FrameType | None) -> None:
            simulator.send_signal(number)

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        assert simulator.stdout is not None
        if line := simulator.stdout.readline():
            announce(json.loads(line))
        return simulator.wait()


if __name__ == "__main__":
    sys.exit(main())
