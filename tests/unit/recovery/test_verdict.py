"""Dead, alive, or unknown: what follows from our own look at a suspect and its provider's word."""

from dataclasses import replace
from itertools import product

import pytest

from services.recovery.domain.effects import ConfirmDeath
from services.recovery.domain.obligations import pending
from services.recovery.domain.state import State
from services.recovery.domain.verdict import verdict
from services.recovery.domain.world import DEAD, Rental, RentalStatus, Sighting
from shared.events import Event
from shared.events.recovery import FailoverRefused, FailoverStarted
from shared.machines import MachineId
from tests.support.examples import START
from tests.support.faults import fault
from tests.support.situations import syncing_with_a_suspect

SHOWN = Rental(
    label=MachineId("dumont-train-e0-a1"),
    provider="vast",
    provider_id="101",
    status=RentalStatus.RUNNING,
    address="127.0.0.1",
    port=40001,
    price_per_hour=0.2,
)
PROVIDER_SAYS = [None, *(replace(SHOWN, status=status) for status in RentalStatus)]
NOT_ASKED = "vast could not be asked: 502 with an HTML page"


def judged(sighting: Sighting, rental: Rental | None, silent: str = "") -> Event:
    state, look = suspected()
    return verdict(state, look, sighting=sighting, rental=rental, provider_silent=silent, now=START)


def suspected() -> tuple[State, ConfirmDeath]:
    state = syncing_with_a_suspect().state
    (look,) = [effect for effect in pending(state) if isinstance(effect, ConfirmDeath)]
    return state, look


@fault(29, 52, 55, 58, 59, 96)
@pytest.mark.parametrize(
    ("sighting", "rental", "silent"),
    [
        *product(Sighting, PROVIDER_SAYS, [""]),
        *product(Sighting, [None], [NOT_ASKED]),
    ],
    ids=lambda value: value.status if isinstance(value, Rental) else str(value)[:12],
)
def test_nothing_is_dead_but_by_its_providers_word_or_silent_while_the_provider_can_be_asked(
    sighting: Sighting, rental: Rental | None, silent: str
) -> None:
    event = judged(sighting, rental, silent)
    ended = not silent and (rental is None or rental.status in DEAD)
    alone = sighting is Sighting.SILENT and not silent
    assert isinstance(event, FailoverStarted if ended or alone else FailoverRefused)


@fault(55)
def test_a_silent_gpu_is_looked_at_again_when_its_provider_could_not_be_asked() -> None:
    event = judged(Sighting.SILENT, None, NOT_ASKED)
    assert isinstance(event, FailoverRefused)
    assert event.recheck_at is not None
    assert NOT_ASKED in event.reason


@fault(89)
@pytest.mark.parametrize("rental", [SHOWN, replace(SHOWN, status=RentalStatus.LOST)])
def test_our_own_refused_login_is_no_death(rental: Rental) -> None:
    event = judged(Sighting.UNKNOWN, rental)
    assert isinstance(event, FailoverRefused)
    assert event.recheck_at is not None


@fault(59)
def test_a_gpu_that_answers_is_alive_although_the_market_calls_its_host_offline() -> None:
    event = judged(Sighting.ANSWERS, replace(SHOWN, status=RentalStatus.LOST))
    assert isinstance(event, FailoverRefused)
    assert event.recheck_at is None
