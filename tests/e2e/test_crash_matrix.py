"""kill -9 right before and right after everything that is done, recorded or said.

The places come from the code: each effect, each event type, each call that spends. A story is told
on a real stack while some of them are armed; whatever dies is started again, and the story has to
end as if nothing had been: on a GPU, one machine billed, one rental for each label, a log that
verifies, a state that its fold agrees with, and every file where it was.
"""

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import get_args

import pytest

from services.recovery.domain.effects import Effect
from shared.events import EVENTS, VOICES
from tests.support.faults import fault
from tests.support.sampling import SEED, sampled
from tests.support.stack import Json, Stack, stack
from tests.support.waiting import PATIENCE, eventually

"""Seconds in which something has to move: a loaded machine is slow, not stuck."""
AT_ONCE = 5
"""So many places in one story: each costs the start of a process."""

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="simulated machines are namespaces: root only"),
]

EFFECTS = {effect.__name__ for effect in get_args(Effect)}
CALLS = (
    *("call.before:vast.create", "call.after:vast.create", "call.after:vast.destroy"),
    "relay.published",
)
CREATION = ("call.before:gce.insert", "call.after:gce.insert")

INCIDENT = {
    *("ConfirmDeath", "PromoteStandby", "Fence", "SearchOffers", "RentGpu", "AwaitGpu"),
    *("WatchCandidate", "FreezeStandby", "SwitchToGpu", "SendNotice"),
    *("HealthFailed", "ThresholdReached", "FailoverStarted", "FailoverCompleted", "PrimaryFenced"),
    *("RecoveryStarted", "OfferSelected", "ProvisionRequested", "GpuProvisioned", "GpuReady"),
    *("SyncCompleted", "RestoreDone", "FailbackStarted", "StandbyFrozen", "FailbackVerified"),
    *("FailbackCompleted", "SyncResumed", "RecoveryCompleted", "NoticeSent"),
}
"""What each loss of a GPU passes, from the first failed check to the end of the old machine."""

LIFE = {
    *("RequestReceived", "WorkspaceRegistered", "ProvisionStandby", "StandbyProvisioned"),
    *("RequestRefused", "WorkspacePaused", "WorkspaceResumed", "WorkspaceRemoved"),
}
"""What a workspace passes from its registration to its end, beside an incident."""

NOT_IN_A_STORY = {
    "PrepareAdopted": "a GPU of the user's own",
    "ThawStandby": "a freeze that does not end in time",
    "StandbyThawed": "a freeze that does not end in time",
    "FailbackAborted": "a freeze that does not end in time",
    "RequestAccepted": "a request that nothing else answers",
    "GenerationHeld": "a source that shrank",
    "GenerationAccepted": "a source that shrank",
    "ProvisionFailed": "a market that refuses",
    "WaitScheduled": "a market that refuses again and again",
    "WaitEnded": "a market that refuses again and again",
    "ZombieSeen": "a market that runs a lost machine again",
    "OrphanDestroyed": "a rental whose answer came too late",
    "SpendLimitReached": "a spend limit",
    "StandbyLost": "a standby that dies",
    "StandbyRestored": "a standby that dies",
    "EffectFailing": "an effect that fails again and again",
    "FailoverRefused": "a failover that is not possible",
    "FindGeneration": "a way back to an older copy",
    "RollbackRequested": "a way back to an older copy",
    "RollbackRefused": "a way back to an older copy",
    "RecoveryHalted": "trouble that people must end",
    "HealthRestored": "a host that was silent for a moment",
    "SyncFailed": "a sync that broke",
    "RestoreFailed": "a restore that broke",
    "RestoreProgressed": "a restore that takes long",
    "ConfirmStandbyLoss": "a standby that is suspected",
    "StandbyLossRefused": "a standby that is suspected and lives",
    "StandbyStale": "a copy that grew too old",
    "GenerationConfirmed": "a source in which nothing changes for minutes",
    "RenewHost": "a host certificate that comes of age",
    "RenewalDue": "a host certificate that comes of age",
    "HostRenewed": "a host certificate that comes of age",
    "HealthUnknown": "a host that nobody can judge",
    "FenceDelayed": "a GPU whose host left the market",
}
"""Why a kill there needs a story of its own, such as those of the simulation."""

NEVER_ENDS = {"effect.after:WatchCandidate"}
"""The watch over a candidate is given up when the candidate serves."""


def places(names: set[str], more: Sequence[str]) -> list[str]:
    """Every place around these effects and events, in an order that the seed chooses."""
    found = set(more)
    for name in names & EFFECTS:
        found |= {f"effect.before:{name}", f"effect.after:{name}"}
    for name in names & EVENTS.keys():
        found |= {f"append.before:{name}", f"append.after:{name}"}
    for voice in ("health", "sync"):
        for name in names & {cls.type for cls in VOICES[voice]}:
            found |= {f"say.before:{name}", f"say.after:{name}", f"inbox.recorded:{name}"}
    for name in names & {cls.type for cls in VOICES["api"]}:
        found.add(f"inbox.recorded:{name}")
    chosen = sorted(found - NEVER_ENDS)
    random.Random(SEED).shuffle(chosen)
    return chosen


def together(found: list[str]) -> list[tuple[str, ...]]:
    return [tuple(found[at : at + AT_ONCE]) for at in range(0, len(found), AT_ONCE)]


def test_every_effect_and_event_is_killed_around_or_has_a_reason_not_to_be() -> None:
    known = EFFECTS | EVENTS.keys()
    told = INCIDENT | LIFE | NOT_IN_A_STORY.keys()
    assert known - told == set(), "tell a story that passes it, or say why there is none"
    assert told - known == set(), "this does not exist any more"
    assert (INCIDENT | LIFE) & NOT_IN_A_STORY.keys() == set()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("crashes")) as started:
        yield started


_numbers = count(1)


class Workspace:
    """One workspace of the stack, on its GPU. ``files`` is what must be in it."""

    def __init__(self, at: Stack) -> None:
        self.stack = at
        self.name = f"crash{next(_numbers)}"
        self.files: dict[str, bytes] = {}

    def state(self) -> Json:
        return self.stack.state(self.name)

    def recorded(self, type_: str, *, after: int = 0) -> Json | None:
        """The first event of a type after a position: its position and its data."""
        sql = """SELECT position, data FROM event_log
                  WHERE stream_id = $1 AND type = $2 AND position > $3 ORDER BY position LIMIT 1"""
        rows = self.stack.query(sql, f"workspace/{self.name}", type_, after)
        return {"position": rows[0]["position"], **json.loads(rows[0]["data"])} if rows else None

    def until(self, type_: str, *, after: int = 0) -> Json:
        """Wait for an event as long as the log grows or armed places are passed."""
        moved: object = None
        since = time.monotonic()
        while (found := self.recorded(type_, after=after)) is None:
            if moved != (now := (self.head(), self.stack.armed())):
                moved, since = now, time.monotonic()
            assert time.monotonic() < since + PATIENCE, f"no {type_}: {self.stack.armed()} left"
            time.sleep(0.1)
        return found

    def gpu(self) -> str:
        machine: str = self.stack.clouds.machine(self.state()["primary"]["id"])["id"]
        return machine

    def head(self) -> int:
        (row,) = self.stack.query("SELECT max(position) AS head FROM event_log")
        return int(row["head"])

    def begin(self) -> None:
        """Register it and wait until it is in service on a GPU."""
        self.patiently(lambda: self.stack.register(self.name, origin="empty"))
        self.until("RecoveryCompleted")

    def write(self) -> None:
        """Put a file on the GPU and wait until the standby has it."""
        name, content = f"note-{len(self.files)}.txt", os.urandom(64)
        written_at = self.head()
        self.stack.clouds.write(self.gpu(), f"/workspace/{name}", content)
        self.until("SyncCompleted", after=written_at)
        self.files[name] = content

    def lose_the_gpu(self) -> None:
        """The market takes it; return when another is in service and the old one has ended."""
        lost, begun = self.gpu(), self.head()
        self.stack.clouds.happen(lost, "outbid", form="B")
        self.until("RecoveryCompleted", after=begun)
        eventually(lambda: lost not in self._machines())

    def patiently(self, ask: Callable[[], None]) -> None:
        """Ask until it is answered with yes: a request may meet a service that just died."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                ask()
                return
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def assert_nothing_is_lost(self) -> None:
        kept = {
            name: self.stack.clouds.read(self.gpu(), f"/workspace/{name}") for name in self.files
        }
        assert kept == self.files

    def assert_shown_as_recorded(self) -> None:
        """What the api shows is what the log says, but for what is measured now and then."""
        measured = {"lag", "primary", "standby", "billed", "candidate", "price_per_hour"}

        def agreed() -> bool:
            folded = json.loads(self.stack.dumont("state", self.name, "--from-log"))
            shown = self.state()
            names = shown.keys() - measured - {"recovery"}
            return all(folded[name] == shown[name] for name in names)

        eventually(agreed)

    def _machines(self) -> set[str]:
        return {machine["id"] for machine in self.stack.clouds.machines()}


def assert_one_machine_billed(at: Stack, workspaces: int) -> None:
    rented = [account["label"] for account in at.clouds.ledger()["instances"]]
    assert len(rented) == len(set(rented)), "nothing was rented twice under one label"
    eventually(lambda: at.clouds.ledger()["gpus_billed_now"] == workspaces)


@pytest.fixture(scope="module")
def in_service(running: Stack) -> Workspace:
    workspace = Workspace(running)
    workspace.begin()
    return workspace


@fault(1)
@fault(2)
@fault(3)
@fault(4)
@fault(5)
@fault(6)
@fault(7)
@fault(8)
@fault(9)
@fault(10)
@fault(11)
@fault(13)
@fault(14)
@pytest.mark.parametrize("armed", sampled([(c,) for c in together(places(INCIDENT, CALLS))], 1))
def test_an_incident_ends_well_wherever_it_is_killed(
    in_service: Workspace, armed: tuple[str, ...]
) -> None:
    at = in_service.stack
    in_service.write()
    for place in armed:
        at.arm(place)
    in_service.lose_the_gpu()
    eventually(lambda: not at.armed())
    eventually(lambda: in_service.state()["phase"] == "SYNCING")
    in_service.assert_nothing_is_lost()
    in_service.assert_shown_as_recorded()
    assert_one_machine_billed(at, 1)
    at.dumont("log", "verify")


@pytest.mark.full
@pytest.mark.parametrize("armed", together(places(LIFE, CREATION)))
def test_a_workspace_lives_and_ends_well_wherever_it_is_killed(
    running: Stack, in_service: Workspace, armed: tuple[str, ...]
) -> None:
    for place in armed:
        running.arm(place)
    one = Workspace(running)
    one.begin()
    one.patiently(lambda: running.ask(one.name, "pause"))
    one.until("WorkspacePaused")
    one.patiently(lambda: running.ask(one.name, "resume"))
    one.until("WorkspaceResumed")
    refused = running.http.post(f"/v1/workspaces/{one.name}/recover")
    assert refused.status_code in {202, 409, 422, 503}, refused.text
    one.assert_shown_as_recorded()
    assert_one_machine_billed(running, 2)
    one.patiently(lambda: running.remove(one.name))
    one.until("WorkspaceRemoved")
    eventually(lambda: not running.armed())
    assert_one_machine_billed(running, 1)
    running.dumont("log", "verify")
