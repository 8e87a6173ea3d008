"""Whatever fails, wherever it fails: something follows, or there is a reason why nothing does.

The failures are read off the catalogue of events by their names, the places are all phases and
steps; nobody has to remember to add a case. What is new and answers nothing fails here.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest

from services.api.domain import projections
from services.recovery.domain.deadlines import due
from services.recovery.domain.effects import Effect, RenewHost, SendNotice
from services.recovery.domain.evolution import HALTS_FROM
from services.recovery.domain.freshness import staleness
from services.recovery.domain.mortality import only_on_the_gpu
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import Phase, Serving, State, Step
from services.recovery.domain.world import RentalStatus
from shared import codec
from shared.assignments import SyncMode
from shared.envelope import Envelope
from shared.events import EVENTS, SPEAKER, Event
from shared.events.health import HealthFailed, ThresholdReached
from shared.events.recovery import (
    EffectFailing,
    FailbackAborted,
    FailbackVerified,
    FailoverRefused,
    FailoverStarted,
    ProvisionFailed,
    ProvisionRequested,
    RecoveryHalted,
    RenewalDue,
    RequestRefused,
    RollbackRefused,
    StandbyLossRefused,
    StandbyLost,
)
from shared.events.sync import GenerationHeld, RestoreFailed, SyncFailed
from shared.machines import Host, Role
from tests.support.examples import START, WS, Story
from tests.support.faults import fault
from tests.support.play import Play
from tests.support.situations import SITUATIONS

SAMPLES = Path(__file__).parents[2] / "contract" / "samples"
TROUBLE = re.compile("(Failed|Failing|Lost|Refused|Halted|Aborted|Held|Seen|Reached|Breached)$")
"""How an event that tells of a failure ends."""
FAILURES = {name: kind for name, kind in EVENTS.items() if TROUBLE.search(name)}
STAGES = ("search", "rent", "ssh", "prepare", "restore", "lost", "credentials")
A_YEAR = timedelta(days=365)

Situation = Callable[[], Story]


# --- every failure that can be told in a state


def failures(story: Story) -> Iterator[Event]:
    """One event of each failing kind for each role, stage and machine that it can be about."""
    for kind in FAILURES.values():
        for role in Role if _has(kind, "role") else (_only_role(kind),):
            for machine in _machines(story.state, role):
                first = _fitting(_sample(kind), story, role, machine)
                yield first
                yield from _variants(first)


def _only_role(kind: type[Event]) -> Role:
    return Role.STANDBY if kind.type.startswith("Standby") else Role.GPU


def _sample(kind: type[Event]) -> Event:
    path = SAMPLES / f"{kind.type}.v{kind.version}.json"
    return codec.decode(json.dumps(json.loads(path.read_text())).encode()).event


def _has(kind: type[Event], name: str) -> bool:
    return any(field.name == name for field in fields(kind))


def _machines(state: State, role: Role) -> list[Host | None]:
    standby = state.standby.host
    hosts = (standby,) if role is Role.STANDBY else (state.primary, state.attempt.host)
    return [host for host in hosts if host is not None] or [None]


def _fitting(event: Event, story: Story, role: Role, machine: Host | None) -> Event:
    """The sample as if it were said now, of this machine."""
    state = story.state
    of_standby = role is Role.STANDBY or isinstance(event, StandbyLost)
    changes: dict[str, Any] = {
        "role": role,
        "attempt": state.standby.attempt if of_standby else state.attempt.number,
        "round": state.attempt.round,
        "market_machine": "" if of_standby else "m7",
    }
    if machine is not None:
        changes |= {
            "machine": machine.id,
            "provider": machine.provider,
            "provider_id": f"{machine.provider_id}-twin",  # only ZombieSeen has it
            "source": machine.id,
        }
    for field in fields(event):
        if isinstance(getattr(event, field.name), datetime):
            changes[field.name] = story.now + timedelta(seconds=60)
    known = {field.name for field in fields(event)}
    return replace(
        event,
        workspace=WS,
        epoch=state.epoch,
        **{name: value for name, value in changes.items() if name in known},
    )


def _variants(event: Event) -> Iterator[Event]:
    match event:
        case ProvisionFailed():
            yield from (replace(event, stage=stage) for stage in STAGES if stage != event.stage)
        case RestoreFailed():
            yield replace(event, candidate_lost=not event.candidate_lost)
        case ThresholdReached():
            yield replace(event, positive=not event.positive)
        case FailoverRefused():
            yield replace(event, recheck_at=None)


# --- why nothing follows


def reason_for_nothing(state: State, event: Event) -> str | None:  # noqa: C901, PLR0912
    """Why ``event`` changes nothing in ``state``; None when something has to follow."""
    in_service = state.primary.id if state.primary else None
    trying = state.phase in {Phase.RECOVERING, Phase.FAILING_BACK}
    match event:
        case _ if state.phase in {Phase.UNREGISTERED, Phase.REMOVED}:
            return "there is no such workspace"
        case HealthFailed():
            return "one failed check is no failure: health counts up to the threshold"
        case EffectFailing():
            return "people are told; the effect goes on being tried"
        case RequestRefused() | RollbackRefused():
            return "it says itself why"
        case SyncFailed():
            return "sync tries again; the last generation is untouched"
        case ThresholdReached(role=Role.GPU) if event.machine != in_service:
            return "it is not in service"
        case ThresholdReached(role=Role.GPU) if state.suspicion is not None:
            return "it is suspected already, and is being looked at"
        case ThresholdReached(role=Role.STANDBY) | StandbyLost() if (
            state.standby.lost or state.standby.host is None
        ):
            return "there is no standby to lose"
        case ThresholdReached(role=Role.STANDBY) if state.standby.suspicion is not None:
            return "it is suspected already, and is being looked at"
        case FailoverRefused() if state.suspicion is None:
            return "nobody is suspected"
        case StandbyLossRefused() if state.standby.suspicion is None:
            return "nobody suspects the standby"
        case ProvisionFailed(role=Role.GPU) if not trying or state.step is Step.SWITCHING:
            return "no attempt is under way that this could end"
        case RestoreFailed() if state.attempt.host is None:
            return "no restore is under way"
        case FailbackAborted() if state.step not in {Step.FREEZING, Step.LAST_DELTA}:
            return "nothing is frozen"
        case RecoveryHalted() if state.phase not in HALTS_FROM:
            return "no recovery is under way"
        case GenerationHeld() if state.held:
            return "it is held already"
    return None


def rest(state: State) -> str | None:
    """Why nothing is owed to the world here; None where something must be."""
    if state.phase in {Phase.SYNCING, Phase.HALTED, Phase.UNREGISTERED, Phase.REMOVED}:
        return "its phase is one to rest in"
    if state.paused:
        return "a person paused it"
    if state.phase is Phase.ON_STANDBY and not state.policy.auto_recovery:
        return "the policy wants no recovery by itself"
    if state.phase is Phase.ON_STANDBY and not state.complete and state.standby.host:
        return "the upload is awaited"
    return None


def answered(before: State, event: Event, story: Story, told: list[Event]) -> bool:
    return story.state != before or bool(told) or bool(reason_for_nothing(before, event))


def goes_on(story: Story) -> bool:
    """Whether somebody will act: an effect, a timer, or sync by its assignment."""
    state = story.state
    # Notices and renewals are always owed some time: they bring nothing forward.
    acts = [e for e in pending(state) if not isinstance(e, SendNotice | RenewHost)]
    timers = [e for e in due(state, story.now + A_YEAR) if not isinstance(e, RenewalDue)]
    if rest(state) or acts or timers:
        return True
    return Play(story).order.mode is not SyncMode.IDLE


def overdue(story: Story) -> bool:
    """Whether a deadline or wait is over and nobody noticed."""
    state = story.state
    if state.step is Step.SWITCHING and (state.standby.lost or not state.generation):
        return False  # there is nobody else to serve: the switch goes on
    times = [state.standby.wait_until, state.attempt.deadline]
    if state.step is Step.SEARCHING:
        times.append(state.wait_until)
    return any(time is not None and time <= story.now for time in times)


def short(event: Event) -> str:
    return " ".join(
        str(value)
        for value in (
            event.type,
            getattr(event, "role", ""),
            getattr(event, "stage", ""),
            getattr(event, "machine", ""),
        )
        if value
    )


# --- the tests


def test_the_situations_cover_every_phase_and_step() -> None:
    states = [situation().state for situation in SITUATIONS]
    assert {state.phase for state in states} == set(Phase)
    assert {state.step for state in states} == set(Step)
    assert {state.serving for state in states} == set(Serving)


def test_the_failures_are_found_among_the_events() -> None:
    assert len(FAILURES) >= 13
    assert {"ThresholdReached", "StandbyLost", "ProvisionFailed", "ZombieSeen"} <= FAILURES.keys()


@fault(8, 64, 66, 71, 72, 73)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_after_every_failure_something_follows_or_a_reason_is_known(situation: Situation) -> None:
    for event in failures(situation()):
        story = situation()
        before = story.state
        told = story.tell(event)
        assert answered(before, event, story, told), f"{short(event)} is met with silence"
        assert goes_on(story), f"{short(event)} leaves it waiting for nothing"


@fault(8)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_after_every_failure_and_then_silence_nothing_waits_for_ever(situation: Situation) -> None:
    for event in failures(situation()):
        story = situation()
        story.tell(event)
        play = Play(story)
        for _ in range(20):
            play.wait(1800)
            assert goes_on(story), f"{short(event)}, then silence, leaves it waiting for nothing"
            assert not overdue(story), f"{short(event)}, then silence: its time is over, unnoticed"


@fault(28, 29, 30)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_a_failure_of_an_older_epoch_is_history(situation: Situation) -> None:
    # Machines that must not run and money that is spent are the same in every epoch.
    any_epoch = {"ZombieSeen", "SpendLimitReached", "EffectFailing"}
    for event in failures(situation()):
        story = situation()
        before = story.state
        if event.type in any_epoch:
            continue
        told = story.tell(replace(event, epoch=before.epoch - 1))
        assert story.state == before, f"{short(event)} of an older epoch changed something"
        assert not [e for e in told if not isinstance(e, RequestRefused)], short(event)


def waits_for_a_person(play: Play) -> bool:
    """The GPU stands still and the copy is too old, or there is none: people were told."""
    state = play.state
    refused = state.suspicion.refused if state.suspicion else ""
    told = (
        any(n.severity == "critical" for n in state.notices) or "NoticeSent" in play.story.names()
    )
    stopped = state.primary is not None and state.primary.provider_id in play.machines
    if state.phase is Phase.SEEDING and stopped and not state.primary_ready:
        return True  # it is tried on without end; people are told after some tries
    alone = only_on_the_gpu(state) and stopped
    return bool(refused) and told and (alone or staleness(state, play.story.now) is not None)


def at_peace(play: Play) -> bool:
    """Protected on one GPU with nothing else billed, or at rest for a reason."""
    state = play.state
    if waits_for_a_person(play):
        return True
    placed = {host.provider_id for host in (state.primary, state.adopted) if host}
    if state.phase in {Phase.HALTED, Phase.REMOVED}:
        # The market may run it again: a person may be fetching what is left from it.
        placed |= {c.provider_id for c in state.condemned if c.keep}
    if any(not c.seen for c in state.condemned) or set(play.billed_gpus()) - placed:
        return False
    if state.phase is not Phase.SYNCING or state.paused:
        return rest(state) is not None
    standby = state.standby.host is not None and not state.standby.lost
    assert state.primary is not None
    healthy = play.runs(state.primary) and bool(state.generation) and standby
    return healthy and not state.resume_owed


@fault(63, 64, 65, 71, 72, 73, 75)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_after_every_failure_all_ends_well_once_nothing_fails_any_more(
    situation: Situation,
) -> None:
    for event in failures(situation()):
        story = situation()
        story.tell(event)
        play = Play.of(story)
        assert play.settle(lambda play=play: at_peace(play)), (  # type: ignore[misc]
            f"{short(event)}: still {story.state.phase} {story.state.step}, owed "
            f"{[type(e).__name__ for e in play.owed()]}, told {story.names()[-8:]}"
        )
        assert_it_reads_well(story)


@fault(56, 65)
@pytest.mark.parametrize("hangs", get_args(Effect), ids=lambda effect: effect.__name__)
def test_whatever_hangs_for_an_hour_nothing_is_rented_twice_and_it_ends_well(hangs: type) -> None:
    for situation in SITUATIONS:
        play = Play.of(situation())
        for _ in range(40):
            play.round(hangs=hangs)
        assert play.settle(lambda play=play: at_peace(play)), (  # type: ignore[misc]
            f"{situation.__name__}: still {play.state.phase} {play.state.step}, owed "
            f"{[type(e).__name__ for e in play.owed()]}, told {play.story.names()[-8:]}"
        )
        assert_it_reads_well(play.story)


# --- machines die under it


def stop_the_gpu(play: Play) -> None:
    for machine in play.machines.values():
        if machine.role is Role.GPU:
            machine.set(RentalStatus.STOPPED)


def take_the_gpu_away(play: Play) -> None:
    for provider_id in play.billed_gpus():
        del play.machines[provider_id]


def stop_the_standby(play: Play) -> None:
    for machine in play.machines.values():
        if machine.role is Role.STANDBY:
            machine.set(RentalStatus.STOPPED)


def delete_the_standby(play: Play) -> None:
    for provider_id in [k for k, vm in play.machines.items() if vm.role is Role.STANDBY]:
        del play.machines[provider_id]


def stop_both(play: Play) -> None:
    stop_the_gpu(play)
    stop_the_standby(play)


def delete_both(play: Play) -> None:
    take_the_gpu_away(play)
    delete_the_standby(play)


DEATHS = (
    stop_the_gpu,
    take_the_gpu_away,
    stop_the_standby,
    delete_the_standby,
    stop_both,
    delete_both,
)


@fault(64, 71, 72, 73, 75)
@pytest.mark.parametrize("die", DEATHS, ids=lambda d: d.__name__)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_wherever_a_machine_dies_it_ends_protected_or_halted(
    situation: Situation, die: Callable[[Play], None]
) -> None:
    play = Play.of(situation())
    die(play)
    assert play.settle(lambda: at_peace(play)), (
        f"still {play.state.phase} {play.state.step}, owed "
        f"{[type(e).__name__ for e in play.owed()]}, told {play.story.names()[-8:]}"
    )
    assert_it_reads_well(play.story)


def assert_it_reads_well(story: Story) -> None:
    """Both folds of the log say the same, and no label or epoch was used twice."""
    view = projections.fold(envelopes(story.told))
    if view is not None:
        assert (view.phase.value, view.epoch) == (story.state.phase.value, story.state.epoch)
    asked = [e for e in story.told if isinstance(e, ProvisionRequested)]
    labels = [e.label for e in asked if e.role is Role.GPU]
    assert len(labels) == len(set(labels)), "one label for two rentals"
    raised = [e.epoch for e in story.told if isinstance(e, FailoverStarted | FailbackVerified)]
    assert raised == sorted(set(raised)), "one epoch for two primaries"


def envelopes(told: Sequence[Event]) -> list[Envelope]:
    """The events as the log holds them."""
    return [
        Envelope(
            id=UUID(int=(1 << 64) + number),
            source=SPEAKER[event.type],
            time=START,
            event=event,
            position=number,
        )
        for number, event in enumerate(told, start=1)
    ]
