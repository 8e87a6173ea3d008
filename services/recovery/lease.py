"""The writer's lease: nothing is written and nothing is done for the world without it."""

import asyncio
import contextlib
from collections.abc import Callable

from shared.eventlog.port import LeaseLostError, LogUnknownError, LogWriter
from shared.patience import EVENT_LOG, Waits


class Lease:
    """``monotonic`` gives seconds that never jump; ``seconds`` is the life of one renewal.

    A waiting process asks five times in that time: it takes over ``seconds`` * 1.2 after the last
    renewal at the latest.
    """

    def __init__(
        self,
        log: LogWriter,
        *,
        holder: str,
        seconds: float,
        monotonic: Callable[[], float],
        waits: Waits | None = None,
    ) -> None:
        self._log = log
        self._holder = holder
        self._seconds = seconds
        self._monotonic = monotonic
        self._term: int | None = None
        self._good_until = 0.0
        self._patience = (waits or Waits()).patience(EVENT_LOG)

    async def acquire(self) -> int:
        """Wait until the lease is ours; returns its term."""
        while True:
            asked = self._monotonic()
            try:
                self._term = await self._log.acquire(self._holder, self._seconds)
            except LogUnknownError as error:
                self._term = None
                await self._patience.wait(str(error))
                continue
            self._patience.over()
            if self._term is not None:
                self._good_until = asked + self._seconds
                return self._term
            await asyncio.sleep(self._seconds / 5)

    def term(self) -> int:
        """The live term. Raises LeaseLostError when it may have passed to another."""
        if self._term is None or self._monotonic() >= self._good_until:
            raise LeaseLostError("the writer lease ran out")
        return self._term

    async def keep(self) -> None:
        """Renew until cancelled. Raises LeaseLostError, which ends the process."""
        while True:
            await asyncio.sleep(self._seconds / 4)
            try:
                await self.confirm()
            except LogUnknownError as error:
                self._patience.say(str(error))
                continue  # term() raises once the lease may be gone
            self._patience.over()

    async def confirm(self) -> int:
        """Have the log itself say that the term is still ours; renews it. Returns the term.

        Our own clock alone is not enough where something is done that cannot be taken back: a
        machine that was paused, or somebody under our name, would not show there. An answer is
        not waited for longer than the lease lives. Raises LeaseLostError, LogUnknownError.
        """
        term, asked = self.term(), self._monotonic()
        try:
            async with asyncio.timeout(min(self._seconds / 3, self._good_until - asked)):
                kept = await self._log.renew(term, self._seconds)
        except TimeoutError:
            self.term()
            raise LogUnknownError("the event log did not confirm the writer lease") from None
        if not kept:
            self._good_until = asked
            raise LeaseLostError("another recovery took the writer lease")
        self._good_until = max(self._good_until, asked + self._seconds)
        return term

    async def release(self) -> None:
        """Give it up at a clean end, so that a successor need not wait."""
        if self._term is not None and self._monotonic() < self._good_until:
            with contextlib.suppress(LogUnknownError):  # then it ends by itself, soon
                await self._log.release(self._term)
        self._term = None
