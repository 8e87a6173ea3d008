"""``look``: the heartbeat. It is asked every second, so it must start and answer fast."""

from __future__ import annotations

import os
import shutil
import time

from .answers import Answer, iso
from .epochs import read_epoch
from .generations import newest_generation
from .host import Session
from .layout import STORE


def look(session: Session, _payload: Answer) -> Answer:
    """The heartbeat: who is there, and how it is."""
    host = session.host
    on_standby = host.role == "standby"
    newest = newest_generation() if on_standby else None
    disk = STORE if on_standby or not os.path.isdir(host.path) else host.path
    return {
        "machine": host.machine,
        "role": host.role,
        "workspace": host.workspace,
        # A GPU is not fenced by its epoch file; that it took this login is its answer.
        "epoch": read_epoch() if on_standby else session.epoch,
        "time": iso(time.time_ns()),
        "load": os.getloadavg()[0],
        "free_bytes": shutil.disk_usage(disk).free,
        "path_present": os.path.isdir(host.path),
        "gpu": look_at_gpu() if host.role == "gpu" else None,
        "generation": newest.id if newest else None,
    }


def look_at_gpu() -> Answer | None:
    """The first card, None where there is none or it does not answer."""
    import subprocess  # noqa: PLC0415 - slow to import, and only a GPU needs it

    asked = "name,utilization.gpu,memory.used,memory.total"
    argv = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(argv, capture_output=True, timeout=2, check=True, text=True)
        name, busy, used, total = (
            word.strip() for word in answer.stdout.splitlines()[0].split(",")
        )
        return {
            "name": name,
            "utilization_percent": float(busy),
            "memory_used_mib": float(used),
            "memory_total_mib": float(total),
        }
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
