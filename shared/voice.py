"""How a service speaks into the inbox: events until they are kept, samples once."""

import json
from uuid import UUID

import structlog

from shared import failpoints, subjects
from shared.bus.port import Bus, BusError
from shared.clock import NewId, Now
from shared.envelope import Envelope
from shared.events import Event
from shared.machines import WorkspaceName
from shared.patience import BUS, Waits

log = structlog.get_logger()


class Voice:
    """``service`` is the source of what is said, and its place among the subjects.

    ``waits`` shows when the bus does not take what is said.
    """

    def __init__(
        self,
        bus: Bus,
        service: str,
        *,
        now: Now,
        new_id: NewId,
        waits: Waits,
    ) -> None:
        self._bus = bus
        self._service = service
        self._new_id = new_id
        self._waits = waits
        self.now = now

    async def say(self, event: Event, event_id: UUID | None = None) -> None:
        """Publish one event, with the same id until the stream has it."""
        envelope = Envelope(
            id=event_id or self._new_id(), source=self._service, time=self.now(), event=event
        )
        subject = subjects.inbox(self._service, event.workspace, event.type)
        patience = self._waits.patience(BUS)
        try:
            while True:
                try:
                    failpoints.reach("say.before", event.type)
                    await self._bus.publish(subject, envelope)
                    failpoints.reach("say.after", event.type)
                    return
                except BusError as error:
                    await patience.wait(str(error))
        finally:
            patience.over()

    async def sample(self, workspace: WorkspaceName, kind: str, **values: object) -> None:
        """Telemetry: heard by whoever listens now, or by nobody. Old samples are not kept."""
        if not self._bus.connected:
            return
        body = json.dumps({**values, "at": self.now().isoformat()}, separators=(",", ":"))
        subject = subjects.telemetry(self._service, workspace, kind)
        try:
            await self._bus.publish_raw(subject, body.encode())
        except BusError as error:
            log.debug("sample not sent", reason=str(error))
