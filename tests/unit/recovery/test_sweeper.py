"""Machines that must not be are found, whatever else the providers do not answer."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace

from services.recovery.ports import ProviderError, Rental, RentalStatus
from services.recovery.service import Recovery
from services.recovery.sweeper import LOOKS_AT_ONCE, Sweeper
from shared.eventlog.memory import MemoryLog
from shared.events.recovery import WorkspaceRegistered, ZombieSeen
from shared.machines import MachineId, Role, WorkspaceName
from tests.support import virtual_time
from tests.support.examples import Story
from tests.support.faults import fault
from tests.support.world import Ids, Machine, MemoryCloud

INTERVAL = 30.0
HUNG = 1e6
"""Seconds that somebody takes who does not answer."""


class SlowCloud(MemoryCloud):
    """``takes``: seconds until one machine is shown; ``listing``: those until the list is.

    ``refused``: machines whose look fails. ``busy_max``: so many looks were under way at once.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.takes: dict[str, float] = {}
        self.listing = 0.0
        self.refused: set[str] = set()
        self.looked: list[str] = []
        self.busy_max = 0
        self._busy = 0

    async def inventory(self, prefix: str) -> tuple[Rental, ...]:
        await asyncio.sleep(self.listing)
        return await super().inventory(prefix)

    async def get(self, provider_id: str) -> Rental | None:
        self.looked.append(provider_id)
        self._busy += 1
        self.busy_max = max(self.busy_max, self._busy)
        try:
            await asyncio.sleep(self.takes.get(provider_id, 0.0))
        finally:
            self._busy -= 1
        if provider_id in self.refused:
            raise ProviderError("the market stumbled")
        return await super().get(provider_id)

    def orphan(self, workspace: str) -> str:
        """A machine of this workspace that nobody knows of; returns its id there."""
        provider_id = str(len(self.machines) + 1)
        label = MachineId(f"dumont-{workspace}-e7-a{provider_id}")
        rental = Rental(
            label=label,
            provider=self.name,
            provider_id=provider_id,
            status=RentalStatus.RUNNING,
            address=None,
            port=None,
            price_per_hour=0.2,
        )
        self.machines[provider_id] = Machine(rental, Role.GPU)
        return provider_id


@dataclass
class Accounts:
    """Two accounts, and what is in the log of the machines in them."""

    log: MemoryLog = field(default_factory=lambda: MemoryLog(now=virtual_time.now))
    vast: SlowCloud = field(default_factory=lambda: SlowCloud("vast"))
    gce: SlowCloud = field(default_factory=lambda: SlowCloud("gce"))

    async def found(self) -> list[str]:
        """What was seen to have no place, as ``provider/id`` in the order of the log."""
        events = [envelope.event for envelope in await self.log.read()]
        return [
            f"{event.provider}/{event.provider_id}"
            for event in events
            if isinstance(event, ZombieSeen)
        ]

    async def swept(self, *workspaces: str, seconds: float) -> None:
        """Sweep for so long, for these workspaces."""
        term = await self.log.acquire("recovery", 1e6)
        assert term is not None
        recovery = Recovery(
            self.log,
            term=lambda: term,
            now=virtual_time.now,
            new_id=Ids(),
            installation="dumont",
            ports=range(20000, 20100),
        )
        for number, name in enumerate(workspaces):
            await recovery.observe(registration(name, 20000 + number))
        sweeper = Sweeper(
            recovery,
            {"vast": self.vast, "gce": self.gce},
            installation="dumont",
            interval=INTERVAL,
            now=virtual_time.now,
        )
        sweeping = asyncio.create_task(sweeper.run())
        await asyncio.sleep(seconds)
        assert not sweeping.done(), "it goes on until it is cancelled"
        sweeping.cancel()
        await asyncio.wait([sweeping])


def registration(name: str, port: int) -> WorkspaceRegistered:
    story = Story()
    story.ask("register", path="/workspace", origin="empty")
    event = story.told[1]
    assert isinstance(event, WorkspaceRegistered)
    return replace(event, workspace=WorkspaceName(name), endpoint_port=port)


def played(story: Callable[[Accounts], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        await story(Accounts())

    virtual_time.run(main())


def test_a_machine_that_is_slow_to_be_shown_holds_up_no_other() -> None:
    async def story(at: Accounts) -> None:
        at.vast.takes[at.vast.orphan("one")] = HUNG
        at.vast.orphan("two")
        at.gce.orphan("one")
        await at.swept("one", "two", seconds=1)
        assert sorted(await at.found()) == ["gce/1", "vast/2"]

    played(story)


def test_a_machine_that_is_slow_to_be_shown_holds_up_no_later_round() -> None:
    async def story(at: Accounts) -> None:
        slow = at.vast.orphan("one")
        at.vast.takes[slow] = HUNG
        sweeping = asyncio.create_task(at.swept("one", "two", seconds=10 * INTERVAL))
        await asyncio.sleep(1)
        at.vast.orphan("two")
        await sweeping
        assert await at.found() == ["vast/2"]
        assert at.vast.looked.count(slow) == 1, "what is looked at is not looked at once more"

    played(story)


def test_an_account_whose_list_does_not_come_holds_up_no_other() -> None:
    async def story(at: Accounts) -> None:
        at.vast.listing = HUNG
        at.gce.orphan("one")
        await at.swept("one", seconds=1)
        assert await at.found() == ["gce/1"]

    played(story)


@fault(55)
def test_a_look_that_fails_leaves_the_others_and_is_made_again() -> None:
    async def story(at: Accounts) -> None:
        at.vast.refused = {at.vast.orphan("one")}
        at.vast.orphan("two")
        sweeping = asyncio.create_task(at.swept("one", "two", seconds=INTERVAL + 2))
        await asyncio.sleep(1)
        assert await at.found() == ["vast/2"]
        at.vast.refused.clear()
        await sweeping
        assert await at.found() == ["vast/2", "vast/1"]

    played(story)


def test_only_so_many_machines_of_an_account_are_looked_at_together() -> None:
    async def story(at: Accounts) -> None:
        for _ in range(3 * LOOKS_AT_ONCE):
            at.vast.takes[at.vast.orphan("one")] = 5.0
        await at.swept("one", seconds=16)
        assert at.vast.busy_max == LOOKS_AT_ONCE
        assert len(await at.found()) == 3 * LOOKS_AT_ONCE

    played(story)
