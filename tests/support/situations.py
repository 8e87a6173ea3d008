"""A story at each place of a workspace's life: every phase, every step, and what lies beside them.

Each is reached by telling events to the decisions as the service does, never by building a state.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from shared.events.recovery import (
    PrimaryFenced,
    ProvisionFailed,
    StandbyLost,
    StandbyProvisioned,
    StandbyRestored,
    StandbyThawed,
)
from shared.machines import Role
from tests.support.examples import STANDBY, WS, Story


def unknown() -> Story:
    return Story()


def seeding() -> Story:
    story = Story()
    story.ask("register", path="/workspace", origin="adopted", adopted=own_gpu())
    return story


def seeding_with_a_standby() -> Story:
    story = seeding()
    story.tell(StandbyProvisioned(workspace=WS, epoch=0, attempt=1, host=STANDBY))
    return story


def registered() -> Story:
    story = Story()
    story.ask("register", path="/workspace", origin="empty")
    return story


def without_a_standby() -> Story:
    story = registered()
    fail_standby(story)
    return story


def awaiting_the_first_seal() -> Story:
    return Story().registered()


def awaiting_the_upload() -> Story:
    story = Story()
    story.ask("register", path="/workspace", origin="uploaded")
    story.tell(StandbyProvisioned(workspace=WS, epoch=0, attempt=1, host=STANDBY))
    return story


def on_standby_for_good() -> Story:
    story = Story()
    story.ask("register", path="/workspace", origin="empty", policy={"auto_recovery": False})
    story.tell(StandbyProvisioned(workspace=WS, epoch=0, attempt=1, host=STANDBY))
    story.sync()
    return story


def on_standby_paused() -> Story:
    story = Story().registered()
    story.ask("pause")
    story.sync()
    return story


def searching() -> Story:
    return Story().searching()


def searching_paused() -> Story:
    story = searching()
    story.ask("pause")
    return story


def waiting_to_search() -> Story:
    story = searching()
    fail_attempt(story, "search")
    return story


def provisioning() -> Story:
    story = searching()
    story.offer()
    return story


def waiting_for_ssh() -> Story:
    story = searching()
    story.rented()
    return story


def restoring() -> Story:
    story = searching()
    story.restoring()
    return story


def restoring_with_a_lost_standby() -> Story:
    story = restoring()
    lose_standby(story)
    return story


def restoring_after_an_aborted_freeze() -> Story:
    story = freezing()
    story.wait(61)
    return story


def restored_and_waiting_to_freeze() -> Story:
    story = restoring_after_an_aborted_freeze()
    epoch, attempt = story.state.epoch, story.state.attempt.number
    story.tell(StandbyThawed(workspace=WS, epoch=epoch, attempt=attempt))
    story.sync()
    story.restore_done()
    return story


def freezing() -> Story:
    story = restoring()
    story.sync()
    story.restore_done()
    return story


def freezing_with_a_lost_standby() -> Story:
    story = freezing()
    lose_standby(story)
    return story


def sending_the_last_delta() -> Story:
    story = freezing()
    story.frozen()
    return story


def switching() -> Story:
    story = sending_the_last_delta()
    story.sync()
    story.restore_done(final=True)
    return story


def switching_with_a_lost_standby() -> Story:
    story = switching()
    lose_standby(story)
    return story


def syncing() -> Story:
    story = Story()
    story.syncing()
    return story


def syncing_within_the_cooldown() -> Story:
    story = syncing()
    story.now -= timedelta(seconds=55)
    return story


def syncing_with_a_suspect() -> Story:
    story = Story()
    story.suspect(story.syncing())
    return story


def syncing_with_a_refused_failover() -> Story:
    story = syncing()
    story.ask("pause")
    primary = story.state.primary
    assert primary is not None
    story.suspect(primary)
    return story


def syncing_without_a_standby() -> Story:
    story = syncing()
    lose_standby(story)
    return story


def syncing_with_a_new_and_empty_standby() -> Story:
    story = syncing_without_a_standby()
    epoch = story.state.epoch
    fresh = replace(STANDBY, provider_id="another-disk")
    story.tell(StandbyRestored(workspace=WS, epoch=epoch, host=fresh, generation=""))
    return story


def failing_over() -> Story:
    story = syncing()
    story.ask("failover")
    return story


def failing_over_without_a_standby() -> Story:
    story = failing_over()
    lose_standby(story)
    return story


def recovering_in_a_later_epoch() -> Story:
    story = Story()
    story.failover(story.syncing())
    return story


def recovering_with_a_fenced_gpu() -> Story:
    story = recovering_in_a_later_epoch()
    (old,) = story.state.condemned
    story.tell(
        PrimaryFenced(
            workspace=WS,
            epoch=story.state.epoch,
            machine=old.machine,
            provider_id=old.provider_id,
            how="stopped",
        )
    )
    return story


def halted() -> Story:
    story = searching()
    fail_attempt(story, "credentials")
    return story


def halted_without_a_standby() -> Story:
    story = halted()
    lose_standby(story)
    return story


def removed() -> Story:
    story = syncing()
    story.ask("remove")
    return story


SITUATIONS: tuple[Callable[[], Story], ...] = (
    unknown,
    seeding,
    seeding_with_a_standby,
    registered,
    without_a_standby,
    awaiting_the_first_seal,
    awaiting_the_upload,
    on_standby_for_good,
    on_standby_paused,
    searching,
    searching_paused,
    waiting_to_search,
    provisioning,
    waiting_for_ssh,
    restoring,
    restoring_with_a_lost_standby,
    restoring_after_an_aborted_freeze,
    restored_and_waiting_to_freeze,
    freezing,
    freezing_with_a_lost_standby,
    sending_the_last_delta,
    switching,
    switching_with_a_lost_standby,
    syncing,
    syncing_within_the_cooldown,
    syncing_with_a_suspect,
    syncing_with_a_refused_failover,
    syncing_without_a_standby,
    syncing_with_a_new_and_empty_standby,
    failing_over,
    failing_over_without_a_standby,
    recovering_in_a_later_epoch,
    recovering_with_a_fenced_gpu,
    halted,
    halted_without_a_standby,
    removed,
)


def own_gpu() -> dict[str, object]:
    """A GPU that already holds the data, as a registration names it."""
    return {
        "id": "mine",
        "provider": "vast",
        "provider_id": "77",
        "address": "127.0.0.9",
        "port": 22,
    }


def lose_standby(story: Story) -> None:
    story.tell(
        StandbyLost(workspace=WS, epoch=story.state.epoch, machine=STANDBY.id, reason="no answer")
    )


def fail_standby(story: Story) -> None:
    story.tell(
        ProvisionFailed(
            workspace=WS,
            epoch=story.state.epoch,
            role=Role.STANDBY,
            attempt=story.state.standby.attempt,
            stage="prepare",
            reason="no zone has room for e2-medium",
        )
    )


def fail_attempt(story: Story, stage: str, reason: str = "it did not work") -> None:
    story.tell(
        ProvisionFailed(
            workspace=WS,
            epoch=story.state.epoch,
            role=Role.GPU,
            attempt=story.state.attempt.number,
            stage=stage,
            reason=reason,
        )
    )
