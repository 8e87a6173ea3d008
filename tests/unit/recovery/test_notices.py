"""People are told from the log: what was halted and not told is still owed after any crash."""

import asyncio

from services.recovery.domain.effects import SendNotice
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import Notice, Phase
from shared import failpoints
from shared.events.health import HealthUnknown
from shared.events.recovery import EffectFailing, NoticeSent, StandbyLost
from shared.machines import Role
from tests.support import virtual_time
from tests.support.examples import STANDBY, WS, Story
from tests.support.faults import fault
from tests.support.situations import fail_attempt
from tests.support.world import ProcessKilled, World
from tests.unit.recovery.test_service import first_start, lose_the_gpu


def owed(story: Story) -> list[tuple[str, str]]:
    return [(notice.severity, notice.text) for notice in story.state.notices]


def refuse_the_key(story: Story) -> None:
    fail_attempt(story, "credentials", "vast does not accept our key")


def sent(story: Story, notice: Notice) -> None:
    story.tell(
        NoticeSent(
            workspace=WS,
            epoch=story.state.epoch,
            number=notice.number,
            severity=notice.severity,
            text=notice.text,
            channel="log",
        )
    )


@fault(12)
def test_a_halt_owes_people_a_notice_until_they_were_told() -> None:
    story = Story().searching()
    refuse_the_key(story)
    assert story.phase() is Phase.HALTED
    (effect,) = pending(story.state)
    assert isinstance(effect, SendNotice)
    assert effect.notice.severity == "critical"
    assert "does not accept our key" in effect.notice.text
    assert "dumont recover" in effect.notice.hint
    sent(story, effect.notice)
    assert pending(story.state) == ()


def test_people_are_told_of_each_thing_once_and_in_order() -> None:
    story = Story()
    host = story.syncing()
    story.tell(StandbyLost(workspace=WS, epoch=1, machine=STANDBY.id, reason="preempted"))
    story.tell(StandbyLost(workspace=WS, epoch=1, machine=STANDBY.id, reason="preempted"))
    for _ in range(3):
        story.suspect(host)
        story.wait(20)
    assert owed(story) == [
        ("info", "back on a GPU after 1 attempt"),
        ("warning", "the standby is lost: preempted"),
        (
            "warning",
            "no failover although the GPU seems dead: "
            "there is no standby to fail over to: preempted",
        ),
    ]
    (effect,) = [effect for effect in pending(story.state) if isinstance(effect, SendNotice)]
    assert effect.notice.number == 1


def test_a_removed_workspace_still_owes_what_people_were_not_told() -> None:
    story = Story().searching()
    refuse_the_key(story)
    story.ask("remove")
    (notice,) = story.state.notices
    assert SendNotice(notice=notice, epoch=story.state.epoch) in pending(story.state)
    sent(story, notice)
    assert story.state.notices == ()


def test_when_nobody_can_be_told_the_newest_notices_are_kept() -> None:
    story = Story()
    story.syncing()
    for tries in range(50):
        failing = f"try {tries}"
        story.tell(
            EffectFailing(workspace=WS, epoch=1, effect="fence", tries=5, reason=failing, hint="")
        )
    assert len(story.state.notices) == 20
    assert "try 49" in story.state.notices[-1].text


def test_that_notices_cannot_be_sent_is_no_notice() -> None:
    story = Story().searching()
    story.tell(
        EffectFailing(workspace=WS, epoch=0, effect="send notice", tries=5, reason="silence")
    )
    assert owed(story) == []


@fault(12)
def test_people_are_told_after_a_crash_right_before_the_telling() -> None:
    async def story(world: World) -> None:
        await first_start(world)
        world.notices.silent = 8
        await lose_the_gpu(world)
        await asyncio.sleep(1)

    def die_once(place: str) -> None:
        if place == "append.before:NoticeSent" and not world.restarts:
            raise ProcessKilled

    world = World()
    failpoints.arm(die_once)
    try:
        virtual_time.run(story(world))
    finally:
        failpoints.arm(None)
    assert world.restarts == 1
    texts = [text for _, text in world.notices.told]
    assert "the GPU was lost; the standby serves at the same address" in texts
    assert texts[-1] == "back on a GPU after 1 attempt"
    assert texts[0] == texts[1], "told again rather than not at all"


@fault(65)
def test_people_are_told_of_a_machine_whose_end_the_provider_never_shows() -> None:
    async def story(world: World) -> None:
        await first_start(world)
        world.vast.undying = 60
        await lose_the_gpu(world)

    world = World()
    virtual_time.run(story(world))
    told = [text for _, text in world.notices.told if text.startswith("fence failed")]
    assert told
    assert "does not show the machine stopped" in told[0]
    assert len(world.vast.running()) == 1, "tried on until it was seen"


@fault(53)
def test_people_are_told_when_nobody_can_tell_whether_the_gpu_lives() -> None:
    story = Story()
    host = story.syncing()
    story.tell(
        HealthUnknown(
            workspace=WS, epoch=1, machine=host.id, role=Role.GPU, checks=3, reason="no witness"
        )
    )
    assert owed(story)[-1] == ("warning", "it cannot be told whether the GPU lives: no witness")
    assert story.phase() is Phase.SYNCING
