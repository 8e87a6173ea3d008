"""The story of the demo: what is done to the product, in order, and what is measured of it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from cli.client import Api
from cli.demo import judge, people
from cli.demo.chronicle import Chronicle, Heard
from cli.demo.control import Control
from cli.demo.liar import Liar
from cli.demo.meeting import Meeting
from cli.demo.options import MARKET_FAULTS, Options
from cli.demo.people import COUNTER, Writer
from cli.demo.stage import Stage
from cli.endpoint import Access
from shared.machines import WorkspaceName

PATH = "/workspace"
GENERATIONS = "/var/lib/dumont/generations"
FAILOVER_SECONDS_MAX = 2.0
ZOMBIE_SECONDS_MAX = 10.0
LOST_LINES = 3

CRASH_AFTER = {
    "health": "HealthFailed",
    "recovery": "GpuProvisioned",
    "sync": "GpuReady",
    "api": "FailoverCompleted",
}


@dataclass(kw_only=True)
class Measured:
    """What the demo found out; None is "not measured", which no promise survives."""

    detection_seconds: float | None = None
    failover_seconds: float | None = None
    lost: judge.Loss | None = None
    standby_differs: list[str] | None = None
    restore_differs: list[str] | None = None
    recovery_seconds: float | None = None
    pause_seconds: float | None = None
    lost_writes: list[int] | None = None
    zombie_seconds: float | None = None
    bill: judge.Bill | None = None
    identity_warnings: list[str] = field(default_factory=list)
    told_seconds: float | None = None
    rented: int | None = None
    given_up: int | None = None
    failure: str = ""


@dataclass(kw_only=True)
class Incident:
    """One run. ``say`` announces a chapter to whoever watches."""

    workspace: WorkspaceName
    options: Options
    stage: Stage
    api: Api
    control: Control
    access: Access
    chronicle: Chronicle
    say: Callable[[str], None]
    meeting: Meeting
    liar: Liar | None = None
    measured: Measured = field(default_factory=Measured)

    async def play(self) -> Measured:
        """From the first GPU to the last bill. Raises CliError where the story does not go on."""
        writer = Writer(self.access, PATH, slower=self.options.slower)
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(writer.run())
            try:
                await self._story(writer)
            finally:
                writing.cancel()
                self.measured.identity_warnings = writer.warnings
        return self.measured

    async def _story(self, writer: Writer) -> None:
        first = await self._until("FailbackCompleted", after=0)
        await self._until("RecoveryCompleted", after=0)
        old_gpu = str(first.data["machine"])
        self.say(
            "a training job runs on the GPU; a client writes through the endpoint all the time"
        )
        await people.start_training(self.access, PATH)
        await self._some_syncs(old_gpu, after=self.chronicle.position)
        began = self.chronicle.position
        async with self._with_faults(began):
            await self._lose(old_gpu, writer, began)
            await self._recover(old_gpu, writer, began)
        await self._settle_the_bill()

    # --- losing it ---------------------------------------------------------------------------

    async def _lose(self, old_gpu: str, writer: Writer, began: int) -> None:
        if self.options.fault in MARKET_FAULTS:
            await self.control.order_fault(str(self.options.fault), count=1)
        if self.liar is not None:
            self.liar.lying = True
        machine = await self.control.machine(old_gpu)
        await self.meeting.all_here(self.options.patience)
        self.say("somebody outbids you: the GPU is taken away")
        taken_at = time.monotonic()
        await self.control.act(machine["id"], "outbid", form="B")
        threshold = await self._until("ThresholdReached", after=began, machine=old_gpu)
        completed = await self._until("FailoverCompleted", after=began)
        async with asyncio.timeout(self.options.patience):
            served = await writer.first_on("standby", taken_at)
        self.measured.detection_seconds = _steady(threshold) - taken_at
        self.measured.failover_seconds = served.at - _steady(threshold)
        await self._judge_the_standby(machine["id"], str(completed.data["generation"]))

    async def _judge_the_standby(self, old_machine: str, generation: str) -> None:
        standby = (await self._standby())["id"]
        served = await self.control.tree(standby, PATH)
        sealed = await self.control.tree(standby, f"{GENERATIONS}/{generation}/tree")
        source = await self.control.tree(old_machine, PATH)
        self.measured.standby_differs = judge.differing(served, sealed, without=[COUNTER])
        # The client goes on with its file at once: the sealed copy is what was there before.
        self.measured.lost = judge.loss(source, sealed)

    # --- getting it back -----------------------------------------------------------------------

    async def _recover(self, old_gpu: str, writer: Writer, began: int) -> None:
        if self.options.fault == "zombie-early":
            await self._until("PrimaryFenced", after=began, machine=old_gpu)
            await self._zombie_returns(old_gpu)
        started = await self._until("FailoverStarted", after=began)
        back = await self._until("FailbackCompleted", after=began)
        new_gpu = str(back.data["machine"])
        self.measured.recovery_seconds = (back.time - started.time).total_seconds()
        self.measured.pause_seconds = float(back.data["pause_seconds"])
        zombie = self.options.fault != "zombie-early"
        if zombie:
            await self._zombie_returns(old_gpu)
        await self._sabotage_the_restore(new_gpu)
        await self._judge_the_gpu(new_gpu, began)
        await self._judge_the_writes(new_gpu, writer)
        owed = await self._until("RecoveryCompleted", after=back.position)
        await self._see_the_zombie_fenced(old_gpu, began, owed)

    async def _judge_the_gpu(self, new_gpu: str, began: int) -> None:
        final = await self._until("RestoreDone", after=began, final=True)
        generation = str(final.data["generation"])
        standby = (await self._standby())["id"]
        sealed = await self.control.tree(standby, f"{GENERATIONS}/{generation}/tree")
        restored = await self.control.tree((await self.control.machine(new_gpu))["id"], PATH)
        self.measured.restore_differs = judge.differing(sealed, restored, without=[COUNTER])

    async def _judge_the_writes(self, new_gpu: str, writer: Writer) -> None:
        """Every number that the standby acknowledged must be in the new GPU's file."""
        machine = (await self.control.machine(new_gpu))["id"]
        kept = await self.control.read(machine, f"{PATH}/{COUNTER}")
        told_safe = [write.number for write in writer.written if write.host == "standby"]
        self.measured.lost_writes = judge.missing_writes(told_safe, kept)

    # --- the zombie ----------------------------------------------------------------------------

    async def _zombie_returns(self, old_gpu: str) -> None:
        self.say("the market runs the lost GPU again: a zombie")
        machine = await self.control.machine(old_gpu)
        await self.control.act(machine["id"], "resume")

    async def _see_the_zombie_fenced(self, old_gpu: str, began: int, owed: Heard) -> None:
        """It ends destroyed soon after it was seen, or, where nobody looked that often, soon
        after ``owed``: a completed recovery owes the old machine's end anyway.
        """
        gone = await self._until("PrimaryFenced", after=began, machine=old_gpu, how="destroyed")
        seen = [h for h in self.chronicle.heard if h.type == "ZombieSeen" and h.position > began]
        self.measured.zombie_seconds = (gone.time - (seen or [owed])[0].time).total_seconds()

    # --- money ---------------------------------------------------------------------------------

    async def _settle_the_bill(self) -> None:
        if self.options.sabotage == "rent-twice":
            await self._rent_another()
        await self.meeting.all_here(self.options.patience)
        alone = self.options.workspaces == 1
        ledger = await self.control.ledger()
        self.measured.bill = judge.bill(ledger, workspace=None if alone else self.workspace)

    async def _rent_another(self) -> None:
        """As a second controller that we know nothing of would: straight at the market."""
        headers = {"Authorization": f"Bearer {self.stage.vast_key}"}
        async with httpx.AsyncClient(
            base_url=self.stage.vast_url, headers=headers, trust_env=False
        ) as market:
            found = await market.post(
                "/api/v0/bundles/", json={"type": "bid", "limit": 10, "rentable": {"eq": True}}
            )
            for offer in found.json()["offers"]:
                answer = await market.put(
                    f"/api/v0/asks/{offer['id']}/",
                    json={
                        "client_id": "me",
                        "image": "somebody/else",
                        "disk": 10,
                        "label": "somebody-else",
                        "price": offer["min_bid"] * 2,
                        "cancel_unavail": True,
                        "runtype": "ssh_direc ssh_proxy",
                    },
                )
                if answer.is_success and answer.json().get("success"):
                    break
        async with asyncio.timeout(self.options.patience):
            while judge.bill(await self.control.ledger()).gpus_now < 2:
                await asyncio.sleep(0.2)

    # --- faults and sabotage ---------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _with_faults(self, began: int) -> Any:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._fault(began))
            try:
                yield
            finally:
                task.cancel()

    async def _fault(self, began: int) -> None:
        fault = self.options.fault or ""
        kind, _, service = fault.partition(":")
        if kind == "crash":
            await self._until(CRASH_AFTER[service], after=began)
            self._kill(service)
        elif fault == "haproxy-restart":
            await self._until("FailoverCompleted", after=began)
            self._kill("haproxy")

    def _kill(self, service: str) -> None:
        self.say(f"kill -9 {service}")
        for pid in self.stage.pids(service):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _sabotage_the_restore(self, new_gpu: str) -> None:
        machine = (await self.control.machine(new_gpu))["id"]
        if self.options.sabotage == "skip-file":
            files = await self.control.tree(machine, PATH)
            victim = next(p for p, (kind, _, _) in sorted(files.items()) if kind == "file")
            await self.control.delete(machine, f"{PATH}/{victim}")
        elif self.options.sabotage == "drop-last-delta":
            final = await self._until("RestoreDone", after=0, final=True, machine=new_gpu)
            standby = (await self._standby())["id"]
            tree = f"{GENERATIONS}/{final.data['generation']}/tree/{COUNTER}"
            kept = (await self.control.read(standby, tree)).splitlines(keepends=True)
            size = sum(len(line) for line in kept[:-LOST_LINES])
            await self.control.truncate(machine, f"{PATH}/{COUNTER}", size)

    # --- shared ----------------------------------------------------------------------------------

    async def _standby(self) -> dict[str, Any]:
        provisioned = await self._until("StandbyProvisioned", after=0)
        return await self.control.machine(str(provisioned.data["host"]["id"]))

    async def _some_syncs(self, source: str, *, after: int, count: int = 2) -> None:
        for _ in range(count):
            synced = await self._until("SyncCompleted", after=after, source=source)
            after = synced.position

    def _until(self, type_: str, *, after: int, **having: object) -> Awaitable[Heard]:
        return self.chronicle.until(type_, after=after, patience=self.options.patience, **having)


def _steady(heard: Heard) -> float:
    """When the event was said, on the steady clock: its own time, not that of its arrival."""
    return time.monotonic() - (time.time() - heard.time.timestamp())
