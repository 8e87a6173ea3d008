"""What the rented GPUs of one workspace cost, and whether another may be rented.

Only what the log tells with its time is counted: from the rental until the machine was seen
stopped or gone. A machine in service is never given back for its cost; what ends is renting.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.recovery.domain.state import Meter, State
from shared.changing import replace
from shared.events import Event
from shared.events.recovery import (
    FenceDelayed,
    GpuProvisioned,
    OrphanDestroyed,
    PrimaryFenced,
    RecoveryStarted,
    SpendLimitReached,
    ZombieSeen,
)

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def metered(state: State, event: Event) -> State:
    """The state with its meters, after an event of any epoch: money is spent in all of them."""
    match event:
        case GpuProvisioned(host=host, rented_at=at) if at is not None:
            meter = Meter(machine=host.id, price_per_hour=host.price_per_hour, since=at)
            return replace(state, meters=_kept(state, (*state.meters, meter), at))
        case PrimaryFenced(seen_at=at) | FenceDelayed(seen_at=at) | OrphanDestroyed(seen_at=at) if (
            at is not None
        ):
            ended = tuple(
                replace(meter, until=at)
                if meter.machine == event.machine and meter.until is None
                else meter
                for meter in state.meters
            )
            return replace(state, meters=_kept(state, ended, at))
        case ZombieSeen(machine=machine, seen_at=at) if at is not None:
            before = [meter for meter in state.meters if meter.machine == machine]
            if not before or before[-1].until is None:
                return state
            again = replace(before[-1], since=at, until=None)
            return replace(state, meters=_kept(state, (*state.meters, again), at))
        case RecoveryStarted(started_at=at):
            return replace(state, incident_since=at, spend_told="")
        case SpendLimitReached(window=window):
            return replace(state, spend_told=window)
        case _:
            return state


def _kept(state: State, meters: Iterable[Meter], now: datetime) -> tuple[Meter, ...]:
    """Without those that no window reaches any more."""
    oldest = min(now - DAY, state.incident_since or now)
    return tuple(meter for meter in meters if meter.until is None or meter.until > oldest)


def spent(meters: Iterable[Meter], *, since: datetime, now: datetime) -> float:
    """US dollars from ``since`` until ``now``."""
    total = 0.0
    for meter in meters:
        seconds = (min(meter.until or now, now) - max(meter.since, since)).total_seconds()
        total += max(0.0, seconds) / 3600 * meter.price_per_hour
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A limit that was reached, in US dollars."""

    window: str
    spent: float
    maximum: float

    def __str__(self) -> str:
        when = "this incident" if self.window == "incident" else f"the last {self.window}"
        return f"{self.spent:.2f} $ were spent on GPUs in {when}, the limit is {self.maximum:.2f} $"


def breach(state: State, now: datetime) -> Breach | None:
    """The limit that forbids to rent now, if any: the one that needs a person first."""
    begins = {"incident": state.incident_since, "day": now - DAY, "hour": now - HOUR}
    for window, since in begins.items():
        if since is None:
            continue
        total, maximum = spent(state.meters, since=since, now=now), state.policy.spend_max(window)
        if total >= maximum:
            return Breach(window=window, spent=total, maximum=maximum)
    return None
