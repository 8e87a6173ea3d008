"""How events change what we believe of the standby."""

from services.recovery.domain import mortality, renewal
from services.recovery.domain.condemned import abandoned
from services.recovery.domain.state import Phase, Serving, State
from shared.changing import replace
from shared.events.recovery import ProvisionFailed, StandbyProvisioned, StandbyRestored
from shared.machines import Host

SERVED_BY_STANDBY = {Phase.ON_STANDBY, Phase.RECOVERING}


def standby_provisioned(state: State, event: StandbyProvisioned) -> State:
    first_data_there = state.origin == "empty" and not state.complete
    there = with_standby(state, event.host, state.generation)
    return replace(
        renewal.scheduled(there, event.host.id, event.renew_at),
        serving=Serving.STANDBY if state.serving is Serving.NOBODY else state.serving,
        complete=state.complete or first_data_there,
        seal=state.seal + 1 if first_data_there else state.seal,
    )


def standby_restored(state: State, event: StandbyRestored) -> State:
    """It is asked for a fresh seal at once: only that says that it is a copy again."""
    there = with_standby(state, event.host, event.generation)
    there = renewal.scheduled(replace(there, seal=state.seal + 1), event.host.id, event.renew_at)
    if mortality.data_at_risk(there):
        return replace(there, serving=Serving.NOBODY)
    serves_again = there.serving is Serving.NOBODY and there.phase in SERVED_BY_STANDBY
    return replace(there, serving=Serving.STANDBY) if serves_again else there


def with_standby(state: State, host: Host, generation: str) -> State:
    """A machine in place of another starts with an empty store, whatever was in the old one."""
    before = state.standby.host
    same = before is None or (before.id, before.provider_id) == (host.id, host.provider_id)
    holds = generation if same else ""
    standby = replace(
        state.standby, host=host, lost="", wait_until=None, suspicion=None, revivals=0
    )
    return replace(
        state,
        standby=standby,
        generation=holds,
        generation_bytes=state.generation_bytes if holds else 0,
        generation_at=state.generation_at if holds else None,
    )


def standby_attempt_failed(state: State, event: ProvisionFailed) -> State:
    standby = state.standby
    if standby.host is not None:
        tried = replace(standby, attempt=standby.attempt + 1, revivals=standby.revivals + 1)
        state = replace(state, standby=tried)
        if tried.revivals >= mortality.REVIVALS_MAX and mortality.replaceable(state):
            return mortality.given_up(state, event.reason)
        # It may hold the only copy: it is tried again, never given up.
        return state
    next_one = replace(standby, attempt=standby.attempt + 1, label=None)
    if standby.label is None or standby.own is not None:
        return replace(state, standby=next_one)
    condemned = (*state.condemned, abandoned(standby.label, "gce", event.reason))
    return replace(state, standby=next_one, condemned=condemned)
