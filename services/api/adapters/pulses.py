"""What the services say of themselves: who acts, and what each waits for."""

from datetime import datetime, timedelta

from pydantic import ValidationError

from services.api.ports import Bus
from shared.clock import Now
from shared.patience import Wait
from shared.pulse import Pulse, decode
from shared.subjects import ALL_PULSES

SERVICES = ("health", "recovery", "sync")
"""Those without which nobody is protected."""

SILENT_AFTER = timedelta(seconds=15)
"""Longer than a restart, and than the takeover by another replica."""

REPLICAS_KEPT = 64


class Pulses:
    """The newest sign of life of each (service, replica).

    A service that was never heard counts as heard when this process began: it may be late.
    """

    def __init__(self, now: Now) -> None:
        self._now = now
        self._acted: dict[str, datetime] = dict.fromkeys(SERVICES, now())
        self._newest: dict[tuple[str, str], tuple[datetime, Pulse]] = {}

    async def listen(self, bus: Bus) -> None:
        """Hear them from now on."""
        await bus.subscribe(ALL_PULSES, self.hear)

    async def hear(self, subject: str, body: bytes) -> None:
        """Take in one. What is not understood is dropped."""
        service = subject.split(".")[2]
        try:
            pulse = decode(body)
        except ValidationError:
            return
        replica = service, pulse.replica
        if service not in SERVICES:
            return
        if replica not in self._newest and len(self._newest) >= REPLICAS_KEPT:
            self._newest.clear()
        self._newest[replica] = self._now(), pulse
        if pulse.acting:
            self._acted[service] = self._now()

    def acts(self, service: str) -> bool:
        """Whether one of its processes said lately that it acts."""
        return self._now() - self._acted[service] < SILENT_AFTER

    def waits(self) -> list[tuple[str, Wait]]:
        """What is waited for, each with the service that waits: that nobody acts is a wait too."""
        said = [
            (service, wait)
            for (service, _), (at, pulse) in self._newest.items()
            if self._now() - at < SILENT_AFTER
            for wait in pulse.waits
        ]
        return said + [("api", self._idle(name)) for name in SERVICES if not self.acts(name)]

    def _idle(self, service: str) -> Wait:
        return Wait(
            what=f"the {service} service",
            reason="no process of it says that it acts: see its log",
            since=self._acted[service],
        )
