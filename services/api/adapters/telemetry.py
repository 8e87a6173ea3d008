"""The newest samples from the bus: shown while they are fresh, never recorded.

Other services say them on ``dumont.telemetry.<service>.<workspace>.<kind>``; a sample is one JSON
object. What is not understood is dropped: nothing may depend on telemetry.
"""

import json
import math
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Any

from services.api.ports import Bus
from shared.clock import Now

ALL_TELEMETRY = "dumont.telemetry.>"
KEPT = 10_000
FRESH_FOR = timedelta(seconds=60)

Json = dict[str, Any]


class Samples:
    """The last heartbeat of each (workspace, machine), as health heard it."""

    def __init__(self, now: Now) -> None:
        self._now = now
        self._heartbeats: OrderedDict[tuple[str, str], tuple[datetime, Json]] = OrderedDict()

    async def listen(self, bus: Bus) -> None:
        """Hear samples from now on."""
        await bus.subscribe(ALL_TELEMETRY, self.hear)

    async def hear(self, subject: str, body: bytes) -> None:
        """Take in one sample."""
        tokens = subject.split(".")
        try:
            sample = json.loads(body)
        except (ValueError, RecursionError):
            return
        if len(tokens) < 5 or not isinstance(sample, dict):
            return
        machine, heartbeat = sample.get("machine"), sample.get("heartbeat")
        if not isinstance(machine, str) or not isinstance(heartbeat, dict) or not heartbeat:
            return
        place = tokens[3], machine
        self._heartbeats[place] = (self._now(), heartbeat)
        self._heartbeats.move_to_end(place)
        while len(self._heartbeats) > KEPT:
            self._heartbeats.popitem(last=False)

    def add_to(self, shown: Json) -> Json:
        """Fill in what fresh samples say of the machines in one workspace's state."""
        for role in ("primary", "standby", "candidate"):
            machine = shown[role]
            if machine is not None:
                heartbeat = self._fresh(shown["name"], machine["id"])
                machine["utilisation"] = _utilisation(heartbeat)
                machine["load"] = _number(heartbeat.get("load"))
        return shown

    def _fresh(self, workspace: str, machine: str) -> Json:
        at, heartbeat = self._heartbeats.get((workspace, machine), (None, {}))
        return heartbeat if at is not None and self._now() - at <= FRESH_FOR else {}


def _utilisation(heartbeat: Json) -> float | None:
    gpu = heartbeat.get("gpu")
    percent = _number(gpu.get("utilization_percent")) if isinstance(gpu, dict) else None
    return None if percent is None else max(0.0, min(1.0, percent / 100))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
