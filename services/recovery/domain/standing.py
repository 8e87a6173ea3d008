"""How events change what we believe of the standby."""

from dataclasses import replace

from services.recovery.domain.state import Condemned, End, Serving, State
from shared.events.recovery import ProvisionFailed, StandbyProvisioned, StandbyRestored
from shared.machines import Host


def standby_provisioned(state: State, event: StandbyProvisioned) -> State:
    first_data_there = state.origin == "empty" and not state.complete
    return replace(
        with_standby(state, event.host, state.generation),
        serving=Serving.STANDBY if state.serving is Serving.NOBODY else state.serving,
        complete=state.complete or first_data_there,
        seal=state.seal + 1 if first_data_there else state.seal,
    )


def standby_restored(state: State, event: StandbyRestored) -> State:
    return with_standby(state, event.host, event.generation)


def with_standby(state: State, host: Host, generation: str) -> State:
    """A machine in place of another starts with an empty store, whatever was in the old one."""
    before = state.standby.host
    same = before is None or (before.id, before.provider_id) == (host.id, host.provider_id)
    holds = generation if same else ""
    return replace(
        state,
        standby=replace(state.standby, host=host, lost="", wait_until=None),
        generation=holds,
        generation_bytes=state.generation_bytes if holds else 0,
    )


def standby_attempt_failed(state: State, event: ProvisionFailed) -> State:
    standby = state.standby
    if standby.host is not None:
        # It served before and may hold the only copy: it is tried again, never given up.
        return replace(state, standby=replace(standby, attempt=standby.attempt + 1))
    next_one = replace(standby, attempt=standby.attempt + 1, label=None)
    if standby.label is None or standby.own is not None:
        return replace(state, standby=next_one)
    abandoned = Condemned(
        machine=standby.label,
        provider="gce",
        provider_id="",
        end=End.DESTROY,
        orphan=True,
        reason=event.reason,
    )
    return replace(state, standby=next_one, condemned=(*state.condemned, abandoned))
