"""Walks through everything that can happen to one workspace, thousands of them, found by chance.

Each step is an effect carried out or failed, a machine that dies or comes back, a word of health,
sync or a person, or time that passes. After each, what must always hold is checked; at the end
nothing fails any more, and it must end well. Hypothesis prints the shortest walk that does not.
"""

from typing import get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.recovery.domain import effects
from services.recovery.domain.evolution import fold
from services.recovery.domain.obligations import endpoint, pending
from services.recovery.domain.state import Phase
from services.recovery.domain.sweep import zombie
from services.recovery.domain.world import RentalStatus
from shared.machines import Role
from tests.support.examples import WS, Story
from tests.support.faults import fault
from tests.support.play import Play
from tests.support.situations import own_gpu
from tests.unit.recovery.test_every_failure import (
    STAGES,
    assert_it_reads_well,
    at_peace,
    envelopes,
    goes_on,
)

REGISTRATIONS: tuple[dict[str, object], ...] = (
    {"origin": "empty"},
    {"origin": "uploaded"},
    {"origin": "adopted", "adopted": own_gpu()},
    {"origin": "adopted", "adopted": {**own_gpu(), "provider": "ssh"}},
    {"origin": "empty", "standby": {**own_gpu(), "id": "mine-too", "provider": "ssh"}},
)
WAITS = (1.0, 31.0, 61.0, 301.0, 901.0, 3600.0)
VERBS = ("failover", "recover", "pause", "resume", "accept", "uploaded", "failback")
EFFECTS = st.integers(0, 5)


class Walk(RuleBasedStateMachine):
    """What is drawn is taken by its number among what is there: so walks shrink well."""

    def __init__(self) -> None:
        super().__init__()
        self.play = Play(Story())
        self.epoch = 0

    @initialize(arguments=st.sampled_from(REGISTRATIONS))
    def register(self, arguments: dict[str, object]) -> None:
        self.play.story.ask("register", path="/workspace", **arguments)
        self.play.adopt()

    # --- recovery works

    @rule(rounds=st.integers(1, 25))
    def all_goes_well_for_a_while(self, rounds: int) -> None:
        for _ in range(rounds):
            self.play.round()

    @rule(rounds=st.integers(1, 25), hangs=st.sampled_from(get_args(effects.Effect)))
    def one_kind_of_effect_hangs_for_a_while(self, rounds: int, hangs: type) -> None:
        for _ in range(rounds):
            self.play.round(hangs=hangs)

    @rule(number=EFFECTS)
    def an_effect_is_carried_out(self, number: int) -> None:
        if owed := self.play.owed():
            self.play.carry_out(owed[number % len(owed)])

    @rule(number=EFFECTS, stage=st.sampled_from(STAGES))
    def an_effect_fails(self, number: int, stage: str) -> None:
        if owed := self.play.owed():
            self.play.fail(owed[number % len(owed)], stage)

    @rule()
    def the_answer_to_a_rental_is_lost(self) -> None:
        for effect in self.play.owed():
            if isinstance(effect, effects.RentGpu):
                self.play.rent_without_an_answer(effect)

    @rule(seconds=st.sampled_from(WAITS))
    def time_passes(self, seconds: float) -> None:
        self.play.wait(seconds)

    @rule()
    def the_sweeper_looks(self) -> None:
        self.play.sweep()

    # --- the other services

    @rule()
    def sync_does_what_it_is_asked(self) -> None:
        self.play.sync()

    @rule()
    def sync_fails(self) -> None:
        self.play.sync_fails()

    @rule()
    def health_says_what_it_sees(self) -> None:
        self.play.health()

    @rule(number=EFFECTS)
    def health_is_wrong(self, number: int) -> None:
        if watched := self.play.order.watch:
            host = watched[number % len(watched)]
            role = Role.STANDBY if host == self.play.state.standby.host else Role.GPU
            self.play.story.tell(self.play.suspicion(host, role))

    @rule(number=st.integers(0, 50))
    def something_old_is_heard_again(self, number: int) -> None:
        """Observations are made again, and a bus may be late: never what recovery itself said."""
        heard = [e for e in self.play.story.told if envelopes([e])[0].source in {"health", "sync"}]
        if heard:
            self.play.story.tell(heard[number % len(heard)])

    # --- the world

    @rule(number=EFFECTS, gone=st.booleans())
    def a_machine_dies(self, number: int, gone: bool) -> None:
        if machines := sorted(self.play.machines):
            provider_id = machines[number % len(machines)]
            if gone:
                del self.play.machines[provider_id]
            else:
                self.play.machines[provider_id].set(RentalStatus.STOPPED)

    @rule(number=EFFECTS)
    def the_market_runs_a_machine_again(self, number: int) -> None:
        if machines := sorted(self.play.machines):
            provider_id = machines[number % len(machines)]
            self.play.machines[provider_id].set(RentalStatus.RUNNING)
            self.play.run_again.add(provider_id)

    @rule(verb=st.sampled_from(VERBS))
    def a_person_asks(self, verb: str) -> None:
        self.play.story.ask(verb)

    @precondition(lambda self: len(self.play.story.told) > 60)
    @rule()
    def a_person_removes_it(self) -> None:
        self.play.story.ask("remove")

    # --- what always holds

    @invariant()
    def epochs_never_fall(self) -> None:
        state = self.play.state
        assert state.epoch >= self.epoch
        self.epoch = state.epoch

    @invariant()
    def at_most_one_gpu_is_rented_or_owed(self) -> None:
        state = self.play.state
        wanted = {host.provider_id for host in (state.primary, state.attempt.host) if host}
        asked = state.attempt.label is not None and state.attempt.host is None
        assert len(wanted) + asked <= 1, f"{wanted} and {state.attempt.label}"

    @invariant()
    def every_machine_is_known_without_the_sweeper(self) -> None:
        """It would mask a machine that was forgotten."""
        seen = (
            zombie(self.play.state, vm.rental, self.play.story.now)
            for vm in self.play.machines.values()
        )
        forgotten = [event for event in seen if event and "runs it again" not in event.reason]
        assert not forgotten

    @invariant()
    def an_adopted_machine_is_never_destroyed_by_us(self) -> None:
        owed = (e for e in pending(self.play.state) if isinstance(e, effects.Fence))
        assert not [
            e for e in owed if e.condemned.provider_id == "77" and e.condemned.end == "destroy"
        ]

    @invariant()
    def somebody_will_act_or_it_rests_for_a_reason(self) -> None:
        assert goes_on(self.play.story), self.play.story.names()[-6:]

    @invariant()
    def the_endpoint_leads_to_no_condemned_machine(self) -> None:
        endpoint(self.play.state)
        state = self.play.state
        condemned = {c.provider_id for c in state.condemned}
        if state.phase is Phase.SYNCING and state.primary is not None:
            assert state.primary.provider_id not in condemned

    # --- and in the end

    def teardown(self) -> None:
        story = self.play.story
        if story.state.phase is Phase.UNREGISTERED:
            return
        assert fold(WS, story.told) == story.state
        assert_it_reads_well(story)
        assert self.play.settle(lambda: at_peace(self.play)), (
            f"still {story.state.phase} {story.state.step}, owed "
            f"{[type(e).__name__ for e in self.play.owed()]}, told {story.names()[-8:]}"
        )


WALKS = settings(
    stateful_step_count=60, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@fault(8, 28, 29, 30, 50, 64, 65, 66, 71, 72, 73)
def test_no_walk_through_whatever_may_happen_breaks_a_promise() -> None:
    run_state_machine_as_test(Walk, settings=settings(WALKS, max_examples=250, derandomize=True))


@pytest.mark.full
def test_none_of_thousands_of_other_walks_breaks_a_promise() -> None:
    run_state_machine_as_test(Walk, settings=settings(WALKS, max_examples=3000))
