"""The bus, the database and the load balancer fail before, during and after an incident.

One stack and one workspace for all of it: each case loses the GPU of the one before. Whatever
happens to the servers, the services wait, say so, and go on by themselves; nothing is lost, one
machine is billed, and the log verifies.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.disks import small_disk
from tests.support.faults import fault
from tests.support.sampling import sampled
from tests.support.stack import FAST, FAST_POLICY, Stack, stack
from tests.support.trouble import (
    TROUBLES,
    Trouble,
    inbox_size,
    restore_an_old_copy_of_the_log,
)
from tests.support.waiting import eventually

NAME = "train"
SEALED = "/var/lib/dumont/ready/tree"
"""The newest generation on a standby."""
NEWER_LOG = "an event log that is not an old copy"
SETTINGS = {**FAST, "DUMONT_LEASE_SECONDS": "6"}

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="simulated machines are namespaces: root only"),
]


@dataclass
class Scene:
    """The stack, and what of the workspace has to survive."""

    stack: Stack
    written: dict[str, bytes]

    def ready(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.stack.http.get("/readyz").json()
        return answer

    def waits(self) -> set[str]:
        return {wait["what"] for wait in self.ready()["waits"]}

    def restarts(self, *children: str) -> dict[str, int]:
        return {name: self.stack.child(name).restarts for name in children}

    def primary(self) -> str:
        gpu: str = self.stack.state(NAME)["primary"]["id"]
        return gpu

    def write(self) -> None:
        """Put one more file on the GPU and wait until it is in a sealed generation."""
        name = f"checkpoint-{len(self.written)}"
        content = os.urandom(1000)
        self.stack.clouds.write(self.primary(), f"/workspace/{name}", content)
        standby = self.stack.state(NAME)["standby"]["id"]
        self.until(lambda: name in self.stack.clouds.tree(standby, SEALED))
        self.written[name] = content

    def lose_the_gpu(self) -> str:
        gpu = self.primary()
        self.stack.clouds.happen(self.stack.clouds.machine(gpu)["id"], "outbid", form="B")
        return gpu

    def until(self, what: Callable[[], bool]) -> None:
        """Looks on while the api itself may not answer."""

        def seen() -> bool:
            with suppress(Exception):
                return what()
            return False

        eventually(seen)

    def served_by_the_standby(self) -> bool:
        return bool(self.stack.state(NAME)["serving"] == "standby")

    def recovered_from(self, lost: str) -> bool:
        state = self.stack.state(NAME)
        return bool(state["phase"] == "SYNCING" and state["primary"]["id"] != lost)

    def assert_every_promise_held(self, lost: str) -> None:
        self.until(lambda: self.recovered_from(lost))
        tree = self.stack.clouds.tree(self.primary(), "/workspace")
        assert self.written.keys() <= tree.keys(), "nothing is lost"
        for name, content in self.written.items():
            assert self.stack.clouds.read(self.primary(), f"/workspace/{name}") == content
        self.until(lambda: self.stack.clouds.ledger()["gpus_billed_now"] == 1)
        rented = [account["label"] for account in self.stack.clouds.ledger()["instances"]]
        assert len(rented) == len(set(rented)), "one machine for each label"
        self.until(lambda: self.ready()["ready"] and not self.waits())
        self.until(lambda: banner(self.stack.state(NAME)["endpoint"]).startswith(b"SSH-2.0"))
        self.stack.dumont("log", "verify")


def banner(endpoint: dict[str, Any]) -> bytes:
    with socket.create_connection((endpoint["host"], endpoint["port"]), timeout=5) as session:
        return session.recv(64)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("infrastructure")
    with ExitStack() as stacked:
        disk = stacked.enter_context(small_disk(directory / "bus", "96m"))
        home = directory / "stack" / "nats"
        home.mkdir(parents=True)
        (home / "store").symlink_to(disk)
        running = stacked.enter_context(stack(directory, variables=SETTINGS))
        # Each machine that was outbid costs more afterwards.
        running.register(NAME, origin="empty", policy={**FAST_POLICY, "gpu_price_max": 1000})
        found = Scene(running, {})
        found.until(lambda: running.state(NAME)["phase"] == "SYNCING")
        yield found


# --- what can be seen from outside --------------------------------------------------------------


@contextmanager
def lasting(scene: Scene, trouble: Trouble) -> Iterator[None]:
    """The trouble lasts until /readyz says what is waited for, and a little longer."""
    with trouble.begin(scene.stack):
        if trouble.shows is not None:
            shown = trouble.shows
            scene.until(lambda: shown in scene.waits())
        yield


@pytest.mark.parametrize(
    "name", sampled([n for n, trouble in TROUBLES.items() if trouble.shows], 2)
)
def test_what_is_waited_for_is_told_and_the_services_go_on_by_themselves(
    scene: Scene, name: str
) -> None:
    others = scene.restarts("health-1", "sync-1", "api-1")
    with lasting(scene, TROUBLES[name]):
        answer = scene.stack.http.get("/v1/workspaces")
        assert answer.is_success, "what is known is still shown"
    scene.until(lambda: scene.ready()["ready"] and not scene.waits())
    assert scene.restarts("health-1", "sync-1", "api-1") == others, "they waited"
    scene.write()


@fault(39, 44)
def test_on_an_old_copy_of_the_log_nothing_is_done_until_it_is_mended(scene: Scene) -> None:
    scene.write()
    machines = labels(scene)
    end = restore_an_old_copy_of_the_log(scene.stack)
    scene.until(lambda: NEWER_LOG in scene.waits() and not scene.ready()["ready"])
    lost = scene.lose_the_gpu()
    scene.until(lambda: inbox_size(scene.stack) >= 4)  # three failed checks and the threshold
    assert scene.stack.query("SELECT max(position) AS head FROM event_log")[0]["head"] == end
    assert labels(scene) == machines, "nothing is rented, and nothing destroyed"
    scene.stack.dumont("log", "mend", "--yes")
    scene.assert_every_promise_held(lost)


def labels(scene: Scene) -> set[str]:
    return {str(machine["label"]) for machine in scene.stack.clouds.machines()}


# --- an incident in the middle of it ------------------------------------------------------------

MOMENTS = ("before", "during", "after")
CASES = [(name, moment) for name in TROUBLES for moment in MOMENTS]


@fault(22)
@fault(23)
@fault(24)
@fault(25)
@fault(26)
@fault(37)
@fault(40)
@fault(41)
@pytest.mark.parametrize(("name", "moment"), sampled(CASES, 2))
def test_an_incident_ends_well_whatever_happens_to_the_servers(
    scene: Scene, name: str, moment: str
) -> None:
    trouble = TROUBLES[name]
    scene.write()
    if moment == "before":
        with lasting(scene, trouble):
            pass
        lost = scene.lose_the_gpu()
    elif moment == "during":
        lost = scene.lose_the_gpu()
        with lasting(scene, trouble):
            pass
    else:
        lost = scene.lose_the_gpu()
        scene.until(scene.served_by_the_standby)
        with lasting(scene, trouble):
            pass
    scene.assert_every_promise_held(lost)
