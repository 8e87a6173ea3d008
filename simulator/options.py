"""Everything about a simulator that can be chosen when it starts."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run the simulated clouds. All times are in seconds and may be fractions.

    ``port`` 0 takes free ports; another number is that of Vast, with Compute Engine on the next
    and control on the one after it. ``public_host`` is the host written into the printed URLs
    (default: ``host``). ``gce_ssh_port`` 0 takes 22 unless this computer's own sshd has it at every
    address. ``hidden_seconds`` is how long a new Vast instance is null to its owner.
    """

    directory: Path
    seed: int = 1
    host: str = "127.0.0.1"
    public_host: str = ""
    port: int = 0
    machine_network: str = "127.77.0.0/16"
    machine_interface: str = "eth0"
    gce_ssh_port: int = 22
    boot_seconds: float = 1.0
    stop_seconds: float = 0.1
    hidden_seconds: float = 0.2
    credit_usd: float = 100.0
    market_machines: int = 24
    """How many machines the market has; beyond 24 its cast is offered again at other prices."""
    rate_scale: float = 0.0
    """1 enforces Vast's documented intervals between calls, 0.01 a hundredth of them, 0 none."""
