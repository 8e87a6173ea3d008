"""The endpoint leads where the log says, whatever becomes of the process that serves it."""

from services.recovery.domain.world import Backend
from tests.support import virtual_time
from tests.support.world import World
from tests.unit.recovery.test_service import first_start


def test_an_endpoint_that_forgot_where_it_leads_is_led_there_again_within_seconds() -> None:
    async def story(world: World) -> None:
        await first_start(world)
        world.endpoint.leads = None  # killed and started anew
        forgot = virtual_time.now()
        await world.life(lambda _: world.endpoint.leads is not None)
        assert (virtual_time.now() - forgot).total_seconds() < 5

    world = World()
    virtual_time.run(story(world))
    assert world.endpoint.history[-1] == "gpu"


def test_an_endpoint_that_leads_somewhere_else_is_put_right() -> None:
    async def story(world: World) -> None:
        await first_start(world)
        wrong = Backend(address="10.9.9.9", port=22)
        world.endpoint.leads = wrong
        await world.life(lambda _: world.endpoint.leads != wrong)

    world = World()
    virtual_time.run(story(world))
    assert world.endpoint.history[-1] == "gpu"
