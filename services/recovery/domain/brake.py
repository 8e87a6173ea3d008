"""When so many GPUs are silent at once that it is us: the brake on mass failovers.

Silence alone is believed of one machine among others that answer. Where most are silent, what
they have in common is the network between them and us, and to give them all up would rent a
machine for each for nothing. What a provider says of a machine is never held.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.recovery.domain.state import Phase, State
from services.recovery.domain.world import Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """Holds when more than ``share`` of the GPUs in service do not answer us, where at least
    ``workspaces_min`` are in service. Of many only ``sample`` are looked at.
    """

    share: float = 0.5
    workspaces_min: int = 5
    sample: int = 16


def witnesses(states: Iterable[State], brake: Brake) -> tuple[State, ...]:
    """The workspaces whose GPUs are looked at before silence is believed; none: it is.

    Spread evenly over all by name, and the same for everybody who asks: a suspect may be its own
    witness, and one round of looks serves a thousand suspects.
    """
    serving = [s for s in states if s.phase is Phase.SYNCING and s.primary is not None]
    if len(serving) < brake.workspaces_min:
        return ()
    serving.sort(key=lambda state: state.workspace)
    step = max(1, -(-len(serving) // brake.sample))
    return tuple(serving[::step])


def held(sightings: Sequence[Sighting], brake: Brake) -> str:
    """Why silence is not believed now, in words that stay the same while it lasts; or nothing."""
    unheard = sum(sighting is not Sighting.ANSWERS for sighting in sightings)
    if not sightings or unheard <= brake.share * len(sightings):
        return ""
    return (
        "most GPUs of this installation are silent at once, and no provider says that this one "
        "is gone: our own network is in doubt"
    )
