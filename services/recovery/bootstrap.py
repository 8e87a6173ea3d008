"""Which adapter plays which port, and which loops make up the service."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from services.recovery.actions import Pace, Tools, carry_out
from services.recovery.adapters.authority import Authority
from services.recovery.adapters.gates import Gates
from services.recovery.adapters.gce import GceProvider
from services.recovery.adapters.haproxy import HaproxyEndpoint, RuntimeApi
from services.recovery.adapters.hosts import SshHosts
from services.recovery.adapters.notices import LogNotices, WebhookNotices
from services.recovery.adapters.vast import VastMarket, VastProvider
from services.recovery.assigner import Assigner
from services.recovery.domain.brake import Brake
from services.recovery.domain.effects import Effect
from services.recovery.driver import Driver
from services.recovery.inbox import Backlog, listen_forever
from services.recovery.keeper import Keeper
from services.recovery.lease import Lease
from services.recovery.leased import LeasedHosts
from services.recovery.mend import mend
from services.recovery.notary import Notary
from services.recovery.ports import MachineProvider, Market, Notices
from services.recovery.relay import Relay
from services.recovery.service import SOURCE, Recovery
from services.recovery.settings import Settings
from services.recovery.sweeper import Sweeper
from services.recovery.witness import confirm_newest, until_newest
from shared import clock, subjects
from shared.assignments import System
from shared.bus.nats_bus import NatsBus
from shared.bus.port import BusError
from shared.certificates import ENTITLED
from shared.clouds.gce import GceClient
from shared.clouds.vast import VastClient
from shared.eventlog.port import LogUnknownError
from shared.eventlog.writer import PostgresWriter
from shared.events import Event
from shared.machines import WorkspaceName
from shared.patience import Waits
from shared.pulse import beating

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """A connected service that does nothing yet: ``run`` waits for the lease and works."""

    run: Callable[[], Coroutine[object, object, None]]


@asynccontextmanager
async def recovery(settings: Settings) -> AsyncIterator[Parts]:
    """Everything is closed, and the lease given up, afterwards."""
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(
            PostgresWriter(settings.log_dsn, settings.log_password)
        )
        waits = Waits()
        bus = await stack.enter_async_context(
            NatsBus.connect(
                settings.nats_url, settings.nats_user, settings.nats_password, waits=waits
            )
        )
        acting = asyncio.Event()
        await stack.enter_async_context(
            beating(bus, SOURCE, waits, replica=settings.replica, acting=acting.is_set)
        )
        lease = Lease(
            writer,
            holder=settings.replica,
            seconds=settings.lease_seconds,
            monotonic=clock.steady,
            waits=waits,
        )
        stack.push_async_callback(lease.release)
        service = Recovery(
            writer,
            term=lease.term,
            now=clock.now,
            new_id=clock.new_id,
            installation=settings.installation,
            ports=settings.endpoint_ports,
            heard=Backlog(bus).heard,
            waits=waits,
        )
        authority = Authority(
            settings.keys_dir,
            epoch_of=_epoch_of(service),
            now=clock.now,
            new_id=clock.new_id,
            user_lifetime=timedelta(seconds=settings.certificate_seconds),
        )
        providers, market = _providers(settings, stack, may_change=lease.term)
        keeper = _keeper(settings, service, authority, lease, waits)
        hosts = LeasedHosts(
            SshHosts(
                authority, Gates(authority), now=clock.now, rsync_oldest=settings.rsync_oldest
            ),
            lease.term,
        )
        tools = Tools(
            recovery=service,
            providers=providers,
            market=market,
            hosts=hosts,
            keeper=keeper,
            notices=_notices(settings, stack),
            bootstrap_public_key=authority.bootstrap_public(),
            host_ca=authority.host_ca_public,
            may_act=lease.term,
            now=clock.now,
            pace=Pace(
                poll=settings.poll_interval,
                settle=settings.settle_seconds,
                renewal=settings.renew_interval,
            ),
            brake=Brake(share=settings.brake_share, workspaces_min=settings.brake_workspaces_min),
        )
        configured = {"vast": market is not None, "gce": "gce" in providers, "endpoint": True}
        assigner = Assigner(
            service,
            bus,
            host_ca=authority.host_ca_public,
            user_ca=authority.user_ca_public(),
            system=System(configured=configured, ssh_public_key=authority.bootstrap_public()),
            may_act=lease.term,
            waits=waits,
        )
        relay = Relay(
            writer,
            bus,
            term=lease.term,
            changed=service.changes(),
            on_renewed=assigner.put_again,
            waits=waits,
        )
        notary = Notary(
            writer,
            bus,
            file=settings.head_file,
            interval=settings.head_seconds,
            now=clock.now,
            may_act=lease.term,
        )
        driver = Driver(
            service, partial(_under_the_term, lease, tools), interval=settings.drive_interval
        )
        sweeper = Sweeper(
            service,
            providers,
            installation=settings.installation,
            interval=settings.sweep_interval,
            now=clock.now,
        )

        async def run() -> None:
            _touch(settings)
            # Before the lease, so that a person can mend the log; and after it, because the wait
            # for it may have been long.
            await until_newest(writer, bus, waits)
            term = await lease.acquire()
            async with asyncio.TaskGroup() as group:
                group.create_task(lease.keep())
                with suppress(BusError, LogUnknownError):
                    await confirm_newest(writer, bus)
                await service.load()
                await _answer_certificates(bus, authority, may_act=lease.term)
                log.info("writing under a new term", term=term)
                acting.set()
                waits.changed.set()
                for loop in (
                    listen_forever(bus, service),
                    driver.run(),
                    keeper.run(),
                    sweeper.run(),
                    assigner.run(),
                    assigner.run_on_changes(),
                    relay.run(),
                    notary.run(),
                ):
                    group.create_task(loop)

        yield Parts(run)


async def mend_log(settings: Settings) -> int:
    """Bring an old copy of the log up to what the bus holds. Raises as ``mend``."""
    async with (
        PostgresWriter(settings.log_dsn, settings.log_password) as writer,
        NatsBus.connect(settings.nats_url, settings.nats_user, settings.nats_password) as bus,
    ):
        return await mend(writer, bus)


def _epoch_of(service: Recovery) -> Callable[[WorkspaceName], int | None]:
    def epoch_of(workspace: WorkspaceName) -> int | None:
        folded = service.states.get(workspace)
        return None if folded is None else folded.state.epoch

    return epoch_of


def _providers(
    settings: Settings, stack: AsyncExitStack, *, may_change: Callable[[], object]
) -> tuple[dict[str, MachineProvider], Market | None]:
    """The providers that we have credentials for."""
    providers: dict[str, MachineProvider] = {}
    market: Market | None = None
    if settings.vast_key:
        vast = VastClient(
            key=settings.vast_key,
            url=settings.vast_url,
            pace=settings.provider_pace,
            may_change=may_change,
        )
        stack.push_async_callback(vast.aclose)
        providers["vast"] = VastProvider(vast, grace=settings.settle_seconds / 2)
        market = VastMarket(vast)
    if settings.gce_project:
        gce = GceClient(
            project=settings.gce_project,
            url=settings.gce_url,
            poll=min(1.0, settings.poll_interval),
            may_change=may_change,
        )
        stack.push_async_callback(gce.aclose)
        providers["gce"] = GceProvider(
            gce, zones=settings.gce_zones, ssh_port=settings.gce_ssh_port
        )
    for missing in {"vast", "gce"} - providers.keys():
        log.warning("provider not configured: it can rent nothing", provider=missing)
    return providers, market


def _notices(settings: Settings, stack: AsyncExitStack) -> Notices:
    if not settings.notice_url:
        return LogNotices()
    webhook = WebhookNotices(settings.notice_url)
    stack.push_async_callback(webhook.aclose)
    return webhook


def _keeper(
    settings: Settings, service: Recovery, authority: Authority, lease: Lease, waits: Waits
) -> Keeper:
    endpoint = HaproxyEndpoint(
        RuntimeApi(settings.haproxy_socket),
        probe_host=settings.endpoint_probe_host,
        gates=Gates(authority),
    )
    interval = min(1.0, settings.drive_interval)
    return Keeper(service, endpoint, interval=interval, may_act=lease.term, waits=waits)


async def _under_the_term(
    lease: Lease, tools: Tools, workspace: WorkspaceName, effect: Effect
) -> Sequence[Event]:
    """Carry out an effect once the log itself has said whose term it is."""
    await lease.confirm()
    return await carry_out(tools, workspace, effect)


async def _answer_certificates(
    bus: NatsBus, authority: Authority, *, may_act: Callable[[], object]
) -> None:
    for asker in ENTITLED:

        async def answer(body: bytes, asker: str = asker) -> bytes:
            may_act()  # no answer at all: whoever asks again reaches the one that acts
            return await authority.answer(body, asker)

        await bus.serve(subjects.certificates(asker), answer)


def _touch(settings: Settings) -> None:
    if settings.ready_file is not None:
        settings.ready_file.touch()
