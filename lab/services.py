"""The real services, wired as their own ``bootstrap`` does, over the lab's adapters."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lab.book import Book
from lab.cloud import Market, Project
from lab.endpoint import LabEndpoint
from lab.hosts import Grounds, LabHosts, LabPlane, LabReach
from lab.network import Connection
from services.api.service import Follower, Requests
from services.health.adapters.gce_listing import GceListing
from services.health.adapters.shared_listing import SharedListing
from services.health.adapters.vast_listing import VastListing
from services.health.service import Health
from services.recovery.actions import Pace, Tools, carry_out
from services.recovery.adapters.gce import GceProvider
from services.recovery.adapters.vast import VastMarket, VastProvider
from services.recovery.assigner import Assigner
from services.recovery.driver import Driver
from services.recovery.inbox import Backlog, listen_forever
from services.recovery.keeper import Keeper
from services.recovery.lease import Lease
from services.recovery.ports import MachineProvider, Notices
from services.recovery.relay import Relay
from services.recovery.service import Recovery
from services.recovery.sweeper import Sweeper
from services.recovery.witness import until_newest
from services.sync.service import Sync
from shared.assignments import System
from shared.clock import NewId, Now
from shared.patience import Waits

INSTALLATION = "lab"
PORTS = tuple(range(20_000, 20_010))


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """How often the services look, in seconds: seldom, since a look costs and time does not."""

    drive: float = 120.0
    keep: float = 120.0
    sweep: float = 240.0
    poll: float = 30.0
    settle: float = 60.0
    renew: float = 7200.0
    repeat: float = 600.0
    lease: float = 240.0
    relay: float = 120.0
    follow: float = 240.0
    assignment_lease: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all processes share."""

    book: Book
    market: Market
    project: Project
    grounds: Grounds
    endpoint: LabEndpoint
    intervals: Intervals
    notices: Notices
    now: Now
    steady: Callable[[], float]
    new_id: NewId
    chance: Callable[[], float]


async def recovery(
    at: Surroundings, bus: Connection, name: str, began: Callable[[Recovery], None]
) -> None:
    """One replica; ``began`` is called once it holds the lease and has read the log."""
    every, waits = at.intervals, Waits(now=at.now, chance=at.chance)
    lease = Lease(at.book, holder=name, seconds=every.lease, monotonic=at.steady, waits=waits)
    service = Recovery(
        at.book,
        term=lease.term,
        now=at.now,
        new_id=at.new_id,
        installation=INSTALLATION,
        ports=PORTS,
        heard=Backlog(bus).heard,
        waits=waits,
    )
    vast = VastProvider(at.market, grace=every.settle / 2, monotonic=at.steady)
    providers: dict[str, MachineProvider] = {
        "vast": vast,
        "gce": GceProvider(at.project, zones=("europe-west4-a",)),
    }
    keeper = Keeper(service, at.endpoint, interval=every.keep, may_act=lease.term, waits=waits)
    hosts = LabHosts(at.grounds)
    tools = Tools(
        recovery=service,
        providers=providers,
        market=VastMarket(at.market),
        hosts=hosts,
        keeper=keeper,
        notices=at.notices,
        bootstrap_public_key="ssh-ed25519 AAAA",
        host_ca=lambda workspace: f"ssh-ed25519 CA-of-{workspace}",
        may_act=lease.term,
        now=at.now,
        pace=Pace(poll=every.poll, endpoint=1.0, settle=every.settle, renewal=every.renew),
    )
    assigner = Assigner(
        service,
        bus,
        host_ca=tools.host_ca,
        user_ca="ssh-ed25519 USERS",
        system=System(configured={"vast": True, "gce": True, "endpoint": True}),
        repeat=every.repeat,
        waits=waits,
    )
    relay = Relay(
        at.book,
        bus,
        term=lease.term,
        changed=service.changes(),
        on_renewed=assigner.put_again,
        poll=every.relay,
        waits=waits,
    )
    sweeper = Sweeper(
        service, providers, installation=INSTALLATION, interval=every.sweep, now=at.now
    )
    await lease.acquire()
    async with asyncio.TaskGroup() as group:
        group.create_task(lease.keep())
        await until_newest(at.book, bus, waits)
        await service.load()
        began(service)
        loops = [
            listen_forever(bus, service),
            Driver(service, partial(carry_out, tools), interval=every.drive).run(),
            keeper.run(),
            assigner.run(),
            assigner.run_on_changes(),
            relay.run(),
            sweeper.run(),
        ]
        for loop in loops:
            group.create_task(loop)


async def health(at: Surroundings, bus: Connection) -> None:
    listings = {
        "vast": SharedListing("vast", VastListing(at.market), monotonic=at.steady),
        "gce": SharedListing("gce", GceListing(at.project), monotonic=at.steady),
    }
    await Health(
        bus,
        providers=listings,
        reach=LabReach(at.grounds),
        now=at.now,
        new_id=at.new_id,
        ready=lambda: None,
        monotonic=at.steady,
        waits=Waits(now=at.now, chance=at.chance),
    ).run()


async def sync(at: Surroundings, bus: Connection) -> None:
    await Sync(
        bus,
        plane=LabPlane(at.grounds),
        now=at.now,
        new_id=at.new_id,
        ready=lambda: None,
        assignment_lease=at.intervals.assignment_lease,
        steady=at.steady,
        waits=Waits(now=at.now, chance=at.chance),
    ).run()


async def api(
    at: Surroundings, bus: Connection, began: Callable[[Follower, Requests], None]
) -> None:
    waits = Waits(now=at.now, chance=at.chance)
    follower = Follower(at.book, poll_seconds=at.intervals.follow, waits=waits)
    began(follower, Requests(bus, follower, now=at.now, new_id=at.new_id))
    async with asyncio.TaskGroup() as group:
        group.create_task(follower.run())
        group.create_task(follower.wake_on(bus))
