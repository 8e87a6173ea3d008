"""A host in service keeps a valid host certificate, and nothing else is disturbed for it."""

from datetime import timedelta

from services.recovery.domain.effects import RenewHost
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import State, Step
from services.recovery.ports import HostUnreachableError, Plan
from shared.events.recovery import HostRenewed, StandbyProvisioned
from shared.machines import Host, Role
from tests.support import virtual_time
from tests.support.examples import RENEW_AT, STANDBY, WS, Story
from tests.support.world import World
from tests.unit.recovery.test_service import syncing

HOURS = 3600.0


def renewed(state: State) -> set[Role]:
    return {effect.role for effect in pending(state) if isinstance(effect, RenewHost)}


def until_due(story: Story) -> None:
    story.wait((RENEW_AT - story.now).total_seconds() + 1)


def renew(story: Story, host: Host, role: Role) -> None:
    at = story.now + timedelta(hours=6)
    epoch = story.state.epoch
    story.tell(HostRenewed(workspace=WS, epoch=epoch, machine=host.id, role=role, renew_at=at))


def test_the_hosts_of_a_protected_workspace_are_renewed_when_their_time_has_come() -> None:
    story = Story()
    gpu = story.syncing()
    assert renewed(story.state) == set()
    until_due(story)
    assert renewed(story.state) == {Role.STANDBY, Role.GPU}
    renew(story, gpu, Role.GPU)
    assert renewed(story.state) == {Role.STANDBY}
    renew(story, STANDBY, Role.STANDBY)
    story.wait(5 * HOURS)
    assert renewed(story.state) == set()
    story.wait(1 * HOURS)
    assert renewed(story.state) == {Role.STANDBY, Role.GPU}


def test_a_gpu_that_was_given_up_is_never_renewed() -> None:
    story = Story()
    gpu = story.syncing()
    until_due(story)
    story.failover(gpu)
    assert renewed(story.state) == {Role.STANDBY}, "a standby may serve for weeks"


def test_nothing_is_renewed_while_the_standby_is_frozen() -> None:
    story = Story().searching()
    story.now = RENEW_AT - timedelta(seconds=10)
    story.restoring()
    story.restore_done()
    assert story.state.step is Step.FREEZING
    story.wait(20)
    assert renewed(story.state) == set()


def test_a_host_whose_certificate_nobody_scheduled_is_renewed_at_once() -> None:
    story = Story()
    story.ask("register", path="/workspace", origin="empty")
    story.tell(StandbyProvisioned(workspace=WS, epoch=0, attempt=1, host=STANDBY))
    story.wait(1)
    assert renewed(story.state) == {Role.STANDBY}


def test_renewals_happen_by_themselves_and_survive_a_restart() -> None:
    async def tale(world: World) -> None:
        world.ask("register", path="/workspace", origin="empty")
        await world.life(syncing(1))
        for _ in range(5):
            await world.quiet(5 * HOURS)  # each the life of another process

    world = World()
    virtual_time.run(tale(world))
    assert world.timeline().count("HostRenewed") == 2 * 4


def test_a_renewal_that_fails_is_told_and_tried_on() -> None:
    async def tale(world: World) -> None:
        world.ask("register", path="/workspace", origin="empty")
        await world.life(syncing(1))
        prepare = world.hosts.prepare

        async def refuse(host: Host, plan: Plan) -> None:
            raise HostUnreachableError(f"{host.id} does not answer")

        world.hosts.prepare = refuse  # type: ignore[method-assign]
        await world.life(lambda _: world.timeline().count("EffectFailing") == 2, seconds=86_400)
        world.hosts.prepare = prepare  # type: ignore[method-assign]
        await world.life(lambda _: world.timeline().count("HostRenewed") == 2)

    world = World()
    virtual_time.run(tale(world))
    assert not [r for r in world.state().renewals if r.owed]
