"""A host in service keeps a valid certificate; nothing else is disturbed for it."""

from services.recovery.renewer import due
from shared.machines import Role
from tests.support.examples import STANDBY, Story


def test_the_hosts_of_a_protected_workspace_are_renewed_as_what_they_are_now() -> None:
    story = Story()
    gpu = story.syncing()
    plans = {plan.role: (host, plan) for host, plan in due(story.state)}
    assert plans[Role.STANDBY][0] == STANDBY
    host, plan = plans[Role.GPU]
    assert (host, plan.epoch, plan.adopted) == (gpu, 1, True)


def test_nothing_is_renewed_while_a_failover_or_a_recovery_is_under_way() -> None:
    story = Story()
    story.failover(story.syncing())
    assert due(story.state) == []
