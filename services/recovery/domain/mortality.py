"""The standby is mortal too: what is left when it is lost, and what follows.

While a GPU serves, the standby is a copy: one that cannot be started again is made anew and seeded
from the GPU, and its old disk is kept until then. While the standby serves, its disk is all there
is: it is started again without end, and people are asked only when it is gone.
"""

from datetime import datetime, timedelta

from services.recovery.domain.condemned import condemn
from services.recovery.domain.halts import Halt, halted
from services.recovery.domain.labels import standby_label
from services.recovery.domain.state import (
    Condemned,
    End,
    Phase,
    Serving,
    StandbyState,
    State,
    Step,
    Suspicion,
)
from shared.changing import replace
from shared.events import Event
from shared.events.health import ThresholdReached
from shared.events.recovery import (
    ProvisionRequested,
    StandbyLossRefused,
    StandbyLost,
)
from shared.events.sync import SyncCompleted
from shared.machines import Host, Role

REVIVALS_MAX = 2
"""So many tries at starting a standby again are made before another takes its place."""


NOTHING_LEFT = "the standby lost its disk while it held the only copy: nothing can be restored"
BOTH_LOST = (
    "the GPU does not exist at its provider, and the standby holds no copy: nothing can be restored"
)


# --- what is left ----------------------------------------------------------------------------


def on_a_gpu(state: State) -> bool:
    """Whether a GPU in service has the data, so that the standby is only its copy."""
    return state.serving is Serving.GPU and state.primary is not None


def data_at_risk(state: State) -> bool:
    """Whether the standby was all there was of the data, and holds none of it any more."""
    served = state.primary is None and state.step is not Step.SWITCHING
    return served and bool(state.newest) and not state.generation


def holds(state: State, event: SyncCompleted) -> bool:
    """Whether the standby that we know is the one that holds this copy.

    It may be told of late, after that standby was lost with all that it held.
    """
    host = state.standby.host
    return host is not None and event.standby in {None, host.id}


def only_on_the_gpu(state: State) -> bool:
    """Whether a GPU has the data and the standby none: there is nothing to fail over to."""
    has_it = state.phase in {Phase.SYNCING, Phase.SEEDING} or state.step is Step.SWITCHING
    return has_it and not state.generation


def look_without_copy(state: State) -> bool:
    """Whether the suspected GPU is worth a look of our own although nothing could take over.

    Only its provider can say that it is gone for good.
    """
    serves = only_on_the_gpu(state) and state.step is not Step.SWITCHING
    return serves and state.suspicion is not None


def nothing_to_restore(state: State) -> bool:
    """Whether a recovery could only bring back an empty tree in place of data that was there."""
    return data_at_risk(state) or (state.phase is Phase.HALTED and not state.generation)


def on_demand_wanted(state: State) -> bool:
    """Whether Spot standbys were lost too often lately."""
    often = len(state.standby.losses) >= state.policy.standby_losses_max
    return state.policy.standby_spot and often


# --- how events change it --------------------------------------------------------------------


def suspected(state: State, event: ThresholdReached) -> State:
    standby = state.standby
    if standby.host is None or standby.host.id != event.machine:
        return state
    if standby.lost or standby.suspicion is not None:
        return state
    suspicion = Suspicion(machine=event.machine, reason=event.reason, evidence=event.evidence)
    return replace(state, standby=replace(standby, suspicion=suspicion))


def loss_refused(state: State, event: StandbyLossRefused) -> State:
    suspicion = state.standby.suspicion
    if suspicion is None:
        return state
    again = replace(suspicion, recheck_at=event.recheck_at) if event.recheck_at else None
    return replace(state, standby=replace(state.standby, suspicion=again))


def lost(state: State, event: StandbyLost) -> State:
    standby = state.standby
    if standby.host is None or standby.host.id != event.machine:
        return state
    if not standby.lost:
        standby = replace(
            standby, suspicion=None, revivals=0, wait_until=None, losses=_losses(state, event)
        )
    state = replace(state, standby=replace(standby, lost=event.reason), stale=False)
    another = replace(state, standby=replace(state.standby, attempt=standby.attempt + 1))
    if event.gone and standby.own is None:
        return _without_standby(another)
    too_often = on_demand_wanted(state) and not standby.on_demand
    return given_up(another, event.reason) if too_often and replaceable(state) else state


def _losses(state: State, event: StandbyLost) -> tuple[datetime, ...]:
    """When Spot standbys were lost within the window that ends now."""
    standby = state.standby
    if event.lost_at is None or standby.on_demand or standby.own is not None:
        return standby.losses
    begin = event.lost_at - timedelta(seconds=state.policy.standby_loss_window)
    return (*(at for at in standby.losses if at > begin), event.lost_at)


def replaceable(state: State) -> bool:
    """Whether another standby may take the place of this one, which cannot be had back."""
    ours = state.standby.own is None and state.standby.host is not None
    return ours and on_a_gpu(state)


def given_up(state: State, reason: str) -> State:
    """Another one is to be made, as the next attempt; this disk is kept until that holds a copy."""
    host = state.standby.host
    assert host is not None
    holds = f"; it holds generation {state.generation}" if state.generation else ""
    why = f"another standby replaces it: {reason}{holds}"
    old = condemn(host, End.STOP, why, role=Role.STANDBY)
    return replace(_without_standby(state), condemned=(*state.condemned, old))


def _without_standby(state: State) -> State:
    standby = state.standby
    return replace(
        state,
        standby=StandbyState(
            attempt=standby.attempt, lost=standby.lost, losses=standby.losses, own=standby.own
        ),
        serving=Serving.NOBODY if state.serving is Serving.STANDBY else state.serving,
        generation="",
        generation_bytes=0,
        generation_at=None,
        stale=False,
    )


def copied_anew(condemned: tuple[Condemned, ...]) -> tuple[Condemned, ...]:
    """The new standby holds a copy of the GPU: nobody needs the disk of the old one."""
    return tuple(
        replace(c, end=End.DESTROY, seen=False)
        if c.role is Role.STANDBY and c.end is End.STOP and not c.keep
        else c
        for c in condemned
    )


def rescue_kept(state: State, candidate: Host | None) -> tuple[Condemned, ...]:
    """The condemned of a workspace whose only copy is gone: what may still have data is kept.

    ``candidate`` is a new GPU that some generation was restored to already.
    """
    return tuple(
        replace(c, end=End.STOP, keep=True, orphan=False)
        if c.end is End.STOP or (candidate is not None and c.machine == candidate.id)
        else c
        for c in state.condemned
    )


# --- what follows ----------------------------------------------------------------------------


def request_standby(state: State, installation: str) -> Event:
    return ProvisionRequested(
        workspace=state.workspace,
        epoch=state.epoch,
        role=Role.STANDBY,
        attempt=state.standby.attempt,
        label=standby_label(installation, state),
        on_demand=on_demand_wanted(state),
    )


def standby_owed(state: State) -> bool:
    return state.standby.missing and state.standby.label is None


def after_loss(state: State, installation: str) -> tuple[Event, ...]:
    """What follows when the standby was lost, or came back: ``state`` knows which."""
    if data_at_risk(state):
        said = state.phase is Phase.HALTED and state.reason == NOTHING_LEFT
        return () if said else (_halt_without_data(state),)
    return (request_standby(state, installation),) if standby_owed(state) else ()


def _halt_without_data(state: State) -> Event:
    return halted(state, Halt.NO_DATA, NOTHING_LEFT, rescue_hint(state))


def halt_without_both(state: State) -> Event:
    """The GPU that had the data is gone for good, and nobody else has it."""
    return halted(state, Halt.NO_DATA, BOTH_LOST, rescue_hint(state))


def rescue_hint(state: State) -> str:
    """Where the data may still be, and how to get at it."""
    kept = [c for c in state.condemned if c.provider != "ssh" and c.end is End.STOP]
    if not kept:
        return "no machine is known that still has the data: register the workspace anew"
    machines = ", ".join(f"{c.machine} ({c.provider} {c.provider_id})" for c in kept)
    return (
        f"its disk is kept, stopped: {machines}. Start it at the provider, then fetch the data or "
        "go on there with: dumont workspace add NEWNAME --ssh root@ADDRESS:PORT"
    )


def only_copy_hint(state: State, gpu: Host | None) -> str:
    """What a person may do about a lost GPU that alone has the data."""
    here = still_there(gpu) if gpu else "no machine is known"
    kept = [c for c in state.condemned if c.role is Role.STANDBY and c.end is End.STOP]
    old = "; an older copy is kept on " + ", ".join(c.machine for c in kept) if kept else ""
    return f"{here}; once it answers again it is copied by itself{old}"


def still_there(host: Host) -> str:
    """Where the data is that no copy has, in words."""
    named = host.provider_id or host.address
    return f"{host.provider} {named} still has the data if it can be started"


def recheck_over(state: State, now: datetime) -> bool:
    """Whether it is time to look again at a standby that somebody calls lost."""
    suspicion = state.standby.suspicion
    return (
        suspicion is not None and suspicion.recheck_at is not None and now >= suspicion.recheck_at
    )
