"""Hears the log while the demo runs, tells it line by line, and waits for what is to happen."""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cli.client import Api
from cli.errors import CliError
from services.api.domain.narration import Severity, severity, tell
from shared import codec
from shared.envelope import Envelope

Narrator = Callable[[str, Severity, datetime], None]


@dataclass(frozen=True, slots=True)
class Heard:
    """An event as it reached the demo: ``at`` on the steady clock of this process."""

    type: str
    position: int
    data: dict[str, Any]
    time: datetime
    at: float


class Chronicle:
    """``narrate`` is called with a sentence for each event of the workspace as it comes.

    What is in the log up to the position ``after`` is not part of the story.
    """

    def __init__(self, api: Api, narrate: Narrator, *, workspace: str, after: int) -> None:
        self._api = api
        self._narrate = narrate
        self._workspace = workspace
        self._after = after
        self._news = asyncio.Condition()
        self.heard: list[Heard] = []

    async def run(self) -> None:
        """Until cancelled; goes on where it was when the api is started again."""
        async for event in self._api.stream(after=self._after, workspace=self._workspace):
            envelope = codec.from_cloudevent(event)
            await self._take(envelope, event["data"])

    async def _take(self, envelope: Envelope, data: dict[str, Any]) -> None:
        heard = Heard(
            envelope.event.type,
            envelope.position or 0,
            data,
            envelope.time,
            time.monotonic(),
        )
        self._narrate(tell(envelope.event), severity(envelope.event), envelope.time)
        async with self._news:
            self.heard.append(heard)
            self._news.notify_all()

    @property
    def position(self) -> int:
        """Of the newest event that was heard."""
        return self.heard[-1].position if self.heard else 0

    async def until(
        self, type_: str, *, after: int = 0, patience: float, **having: object
    ) -> Heard:
        """The first event of this type after a position whose data has these values.

        Raises CliError when it did not come within ``patience`` seconds, and at once when the
        recovery was halted meanwhile.
        """
        return await self.until_any((type_,), after=after, patience=patience, **having)

    async def until_any(
        self, types: Collection[str], *, after: int = 0, patience: float, **having: object
    ) -> Heard:
        """The same for the first event of any of these types."""

        def found() -> Heard | None:
            for heard in self.heard:
                fits = heard.type in types and heard.position > after
                if fits and all(heard.data.get(k) == v for k, v in having.items()):
                    return heard
            return None

        def halted() -> Heard | None:
            halts = (h for h in self.heard if h.type == "RecoveryHalted" and h.position > after)
            return next(halts, None)

        async with self._news:
            try:
                async with asyncio.timeout(patience):
                    await self._news.wait_for(lambda: found() or halted())
            except TimeoutError:
                last = self.heard[-1].type if self.heard else "nothing"
                raise CliError(
                    f"{' or '.join(types)} did not happen within {patience:.0f} s; "
                    f"the last event was {last}"
                ) from None
        event = found()
        if event is None:
            halt = halted()
            assert halt is not None
            raise CliError(f"the recovery halted: {halt.data['reason']}", halt.data["hint"])
        return event
