"""The other story: everybody falls silent at once, and what is right is to do nothing but tell.

When our own network is down every GPU looks dead. Nothing may be given up or rented then; people
are told, and everything goes on by itself when the network is back.
"""

import asyncio
import time

from cli.demo import judge
from cli.demo.incident import PATH, Incident
from cli.demo.people import COUNTER, Writer

TOLD_BY = ("HealthUnknown", "FailoverRefused")
GIVEN_UP_BY = ("FailoverStarted", "StandbyLost")
HELD_FOR_CHECKS = 8
"""So many checks long the silence lasts after people were told."""


class Silence(Incident):
    """One workspace of those that fall silent together."""

    async def _story(self, writer: Writer) -> None:
        first = await self._until("FailbackCompleted", after=0)
        await self._until("RecoveryCompleted", after=0)
        gpu = str(first.data["machine"])
        await self._some_syncs(gpu, after=self.chronicle.position)
        rented = await self._rented()
        began = self.chronicle.position
        await self.meeting.all_here(self.options.patience)
        await self._fall_silent(gpu, began)
        await self._answer_again(gpu, writer)
        self.measured.rented = await self._rented() - rented
        self.measured.given_up = sum(
            heard.position > began and heard.type in GIVEN_UP_BY for heard in self.chronicle.heard
        )
        kept = await self.control.read((await self.control.machine(gpu))["id"], f"{PATH}/{COUNTER}")
        acknowledged = [write.number for write in writer.written]
        self.measured.lost_writes = judge.missing_writes(acknowledged, kept)
        await self._settle_the_bill()

    async def _fall_silent(self, gpu: str, began: int) -> None:
        """Until people were told, and for a while longer."""
        self.say("nobody answers any more")
        at = time.monotonic()
        for machine in await self._machines(gpu):
            await self.control.act(machine, "silence")
        if self._no_witness:
            for provider in ("vast", "gce"):
                await self.control.order_fault("no-answer", provider=provider)
        await self.chronicle.until_any(
            TOLD_BY, after=began, patience=self.options.patience, machine=gpu
        )
        self.measured.told_seconds = time.monotonic() - at
        interval = float(str(self.options.policy_of_each.get("health_interval", 10.0)))
        await asyncio.sleep(HELD_FOR_CHECKS * interval)

    async def _answer_again(self, gpu: str, writer: Writer) -> None:
        await self.meeting.all_here(self.options.patience)
        self.say("the network is back")
        at, position = time.monotonic(), self.chronicle.position
        await self.control.withdraw_faults("no-answer")
        for machine in await self._machines(gpu):
            await self.control.act(machine, "speak")
        async with asyncio.timeout(self.options.patience):
            await writer.first_on("gpu", at)
        await self._until("SyncCompleted", after=position, source=gpu)
        await self._until_syncing()
        self.measured.recovery_seconds = time.monotonic() - at

    async def _until_syncing(self) -> None:
        async with asyncio.timeout(self.options.patience):
            while True:
                state = await self.api.workspace(self.workspace)
                if state["phase"] == "SYNCING" and not state["degraded"]:
                    return
                await asyncio.sleep(0.2)

    @property
    def _no_witness(self) -> bool:
        return self.options.silence == "silence"

    async def _machines(self, gpu: str) -> list[str]:
        """Who falls silent: the GPU, and the standby when it is our own network that is down."""
        silent = [str((await self.control.machine(gpu))["id"])]
        if self._no_witness:
            silent.append(str((await self._standby())["id"]))
        return silent

    async def _rented(self) -> int:
        """Machines that the whole account ever rented."""
        return len((await self.control.ledger())["instances"])
