"""How old the standby's copy is, and what that forbids.

The age counts from the moment at which sync last saw the source as it is in the newest copy, by
the log alone. A copy that is too old is not promoted by itself: a person may know better what is
worse, to wait for the GPU or to lose what it wrote since.
"""

from datetime import datetime

from services.recovery.domain.state import Phase, State
from shared.events import Event
from shared.events.recovery import StandbyStale


def staleness(state: State, now: datetime) -> str | None:
    """Why the copy is too old to be promoted by itself, None when it is not."""
    if not state.generation:
        return None  # there is none at all: said elsewhere
    if state.generation < state.newest:
        return f"the standby holds generation {state.generation}, older than {state.newest}"
    if state.generation_at is None:
        return None
    # What counts is how far the copy was behind when the GPU fell silent, not how long it has
    # been looked for since.
    until = state.suspicion.since if state.suspicion and state.suspicion.since else now
    age = (min(until, now) - state.generation_at).total_seconds()
    bound = state.policy.generation_age_max
    if age <= bound:
        return None
    return f"the newest copy is {age:.0f} s old; the policy allows {bound:.0f} s"


def remedy(state: State) -> str:
    """What a person may do about a copy that is too old."""
    return (
        "if the GPU comes back it is copied again by itself; to give up what it wrote since: "
        f"dumont failover {state.workspace} --allow-data-loss"
    )


def grown_stale(state: State, now: datetime) -> tuple[Event, ...]:
    """Said once, when the copy of a GPU in service gets too old."""
    standby = state.standby
    if state.phase is not Phase.SYNCING or state.stale or standby.lost or standby.host is None:
        return ()
    reason = staleness(state, now)
    if reason is None:
        return ()
    return (
        StandbyStale(
            workspace=state.workspace,
            epoch=state.epoch,
            machine=standby.host.id,
            generation=state.generation,
            reason=reason,
            hint="see why nothing is sealed: dumont timeline NAME; until then a failover "
            f"needs: dumont failover {state.workspace} --allow-data-loss",
        ),
    )
