"""Where the workspaces of a fleet wait for each other, so that all lose their GPUs at once."""

import asyncio

from cli.errors import CliError


class Meeting:
    """``parties`` are expected; who gives up tells with ``leave``, and is waited for no more."""

    def __init__(self, parties: int) -> None:
        self._expected = parties
        self._here = 0
        self._round = 0
        self._news = asyncio.Condition()

    async def all_here(self, patience: float) -> None:
        """Return when everybody who still takes part has come here.

        Raises CliError after ``patience`` seconds.
        """
        async with self._news:
            this_round = self._round
            self._here += 1
            self._begin_if_all()
            try:
                async with asyncio.timeout(patience):
                    await self._news.wait_for(lambda: self._round > this_round)
            except TimeoutError:
                self._here -= 1
                raise CliError(
                    f"the other workspaces did not get as far within {patience:.0f} s"
                ) from None

    async def leave(self) -> None:
        """One party less, whatever became of it."""
        async with self._news:
            self._expected -= 1
            self._begin_if_all()

    def _begin_if_all(self) -> None:
        if self._here and self._here >= self._expected:
            self._here = 0
            self._round += 1
            self._news.notify_all()
