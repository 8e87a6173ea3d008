"""The epoch and the certificate as the hosts themselves enforce them, with nobody to ask."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.sync.adapters.standby import StandbyDataPlane
from shared import subjects
from shared.assignments import Assignment, SyncMode
from shared.bus.memory import MemoryBus
from shared.certificates import CertificateRole
from shared.credentials import Credentials
from shared.machines import Role
from shared.policy import Policy
from shared.ssh import GateError, new_key
from tests.support.faults import fault
from tests.support.hosts import (
    WORKSPACE,
    Lab,
    LabHost,
    processes_of,
    slow_rsync,
    tree_of,
)
from tests.support.sampling import sampled
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

READ, WRITE, PROMOTE = CertificateRole.READ, CertificateRole.WRITE, CertificateRole.PROMOTE
LIFE = timedelta(seconds=6)
"""Of a certificate that a test waits for the end of; more where this machine is busy."""

MEGABYTES = 40
SENDER = "rsync --server --sender -lHtpre.iLsfxCIvu . /"
SLOW = 1000
"""Kilobytes a second: the big file takes longer than any test."""


async def standby_and_slow_gpu(hosts: Lab, speed: int = SLOW) -> tuple[LabHost, LabHost]:
    """A standby with a sealed generation, and its GPU on a slow line with a big new file."""
    standby = await hosts.host(Role.STANDBY, name="standby")

    def furnish(root: Path) -> None:
        (root / "workspace").mkdir()
        slow_rsync(speed)(root)

    gpu = await hosts.host(Role.GPU, name="gpu-0", adopted=True, furnish=furnish)
    (gpu.workspace / "notes").write_text("first\n")
    await hosts.pull(standby, gpu, 0)
    (gpu.workspace / "big").write_bytes(os.urandom(1 << 20) * MEGABYTES)
    return standby, gpu


async def slow_pull(hosts: Lab, standby: LabHost, gpu: LabHost) -> asyncio.Task[dict[str, Any]]:
    """A pull of epoch 0 that is in the middle of the big file."""
    pull = asyncio.create_task(hosts.pull(standby, gpu, 0))
    await until(lambda: any((standby.store / "staging").glob("*/tree/.big.*")))
    assert processes_of(gpu, b"rsync")
    return pull


async def short_lived_pull(
    hosts: Lab, standby: LabHost, gpu: LabHost
) -> asyncio.Task[dict[str, Any]]:
    """The same, under a certificate that ends within seconds."""
    life = LIFE
    while True:
        hosts.certify_for(life)
        pull = asyncio.create_task(hosts.pull(standby, gpu, 0))
        while not pull.done():
            if any((standby.store / "staging").glob("*/tree/.big.*")):
                return pull
            await asyncio.sleep(0.01)
        await asyncio.gather(pull, return_exceptions=True)
        life *= 2


def raw_content(top: Path) -> dict[str, tuple[object, ...]]:
    """Every file with its inode, time and content: whatever writes to one shows."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (info.st_ino, info.st_mtime_ns, content)
    return found


def content_of(path: Path) -> bytes:
    """Nothing for what is gone meanwhile: sshd has files of its own for a moment."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


class TestAnEpochThatIsOver:
    @fault(5)
    @fault(76)
    async def test_has_no_process_left_when_a_promotion_answers_and_changes_no_byte_afterwards(
        self, hosts: Lab
    ) -> None:
        standby, gpu = await standby_and_slow_gpu(hosts)
        pull = await slow_pull(hosts, standby, gpu)
        old = {*processes_of(standby, b"rsync"), *processes_of(standby, b"--epoch 0")}
        assert len(old) > 2
        await hosts.promote(standby, 1, serve=True)
        assert not old & set(processes_of(standby))
        assert not (standby.store / "keys" / "e0").exists()
        before = raw_content(standby.store / "generations")
        await asyncio.gather(pull, return_exceptions=True)
        await until(lambda: not processes_of(gpu, b"rsync"))
        assert raw_content(standby.store / "generations") == before
        assert tree_of(standby.workspace) == tree_of(standby.sealed("e000000-00000001"))
        assert (standby.workspace / "notes").read_text() == "first\n"

    @fault(48)
    @fault(97)
    async def test_is_refused_by_the_standby_itself_whatever_it_asks(self, hosts: Lab) -> None:
        standby, gpu = await standby_and_slow_gpu(hosts)
        request = await hosts.with_key(standby, 0, READ, source=gpu.peer())
        restore = await hosts.with_key(
            standby, 0, WRITE, target=gpu.peer(), attempt=1, round=1, final=True, generation=None
        )
        await hosts.promote(standby, 1, serve=True)
        await hosts.promote(standby, 2, serve=False)
        before = raw_content(standby.store / "generations")
        for epoch in (0, 1):
            for role, verb, payload in (
                (WRITE, "pull", request),
                (WRITE, "push", restore),
                (WRITE, "seal", {}),
                (WRITE, "keypair", {}),
                (WRITE, "generations", {}),
                (PROMOTE, "promote", {"epoch": epoch, "serve": True}),
                (PROMOTE, "freeze", {"timeout": 5}),
                (PROMOTE, "thaw", {}),
            ):
                with pytest.raises(GateError) as refusal:
                    await hosts.ask(standby, role, epoch, verb, payload)
                assert refusal.value.code == "stale-epoch", verb
        assert raw_content(standby.store / "generations") == before
        assert (standby.store / "epoch").read_text() == "2\n"
        assert not (standby.root / "workspace").exists(), "nobody was let in"

    @fault(48)
    @fault(49)
    @fault(85)
    async def test_of_a_gpu_that_comes_back_after_a_partition_gets_nothing_to_the_standby(
        self, hosts: Lab
    ) -> None:
        standby, gpu = await standby_and_slow_gpu(hosts)
        pull = await slow_pull(hosts, standby, gpu)
        away = processes_of(gpu)
        for pid in away:
            os.kill(pid, signal.SIGSTOP)  # as if the line were cut: no word, no end
        promoted = await hosts.promote(standby, 1, serve=True)
        assert promoted["generation"] == "e000000-00000001"
        before = raw_content(standby.store / "generations")
        for pid in away:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        (gpu.workspace / "notes").write_text("of a zombie\n")
        await asyncio.gather(pull, return_exceptions=True)
        with pytest.raises(GateError) as refusal:
            await hosts.pull(standby, gpu, 0)
        assert refusal.value.code == "stale-epoch"
        with pytest.raises(GateError) as refusal:
            await hosts.pull(standby, gpu, 1)  # the zombie takes no certificate of the new epoch
        assert refusal.value.code == "source-refused-us"
        assert raw_content(standby.store / "generations") == before
        assert (standby.workspace / "notes").read_text() == "first\n"

    @fault(48)
    async def test_holds_nothing_on_the_gpu_that_opens_the_standby(self, hosts: Lab) -> None:
        standby = await hosts.host(Role.STANDBY, name="standby")
        gpu = await hosts.host(Role.GPU, name="gpu-0", adopted=True)
        held = [path for path in gpu.root.rglob("*") if path.is_file()]
        keys = [path for path in held if b"OPENSSH PRIVATE KEY" in content_of(path)]
        assert {path.name for path in keys} <= {"host_key", "ssh_host_ed25519_key"}
        for key in keys:
            done = await hosts.log_in(standby, key, "root", "dumont look")
            assert done[0] == 255

    async def test_ends_on_the_new_gpu_too_as_soon_as_it_is_read_under_the_next(
        self, hosts: Lab
    ) -> None:
        standby = await hosts.host(Role.STANDBY, name="standby")
        await hosts.promote(standby, 0, serve=True)
        (standby.workspace / "big").write_bytes(os.urandom(1 << 20) * MEGABYTES)
        await hosts.seal(standby, 0)
        gpu = await hosts.host(Role.GPU, name="gpu-1", furnish=slow_rsync(SLOW))
        push = asyncio.create_task(hosts.push(standby, gpu, 0))
        await until(lambda: bool(list(gpu.root.glob("workspace.dumont/e0-a1/tree/.big.*"))))
        writing = processes_of(gpu, b"rsync --server")
        assert writing
        await hosts.raw(gpu, READ, 1, SENDER)
        assert not set(writing) & set(processes_of(gpu))
        with pytest.raises(GateError) as refusal:
            await push
        assert refusal.value.code == "candidate-refused"


class TestACertificateThatRanOut:
    @pytest.mark.parametrize("gate", sampled(["running", "stopped"], 1))
    @fault(85)
    async def test_ends_the_pull_of_a_standby_that_is_cut_off(self, hosts: Lab, gate: str) -> None:
        standby, gpu = await standby_and_slow_gpu(hosts)
        before = raw_content(standby.store / "generations")
        pull = await short_lived_pull(hosts, standby, gpu)
        gates = processes_of(standby, b"gate.pyz") + processes_of(gpu, b"gate.pyz")
        if gate == "stopped":
            for pid in gates:
                os.kill(pid, signal.SIGSTOP)  # then it is the kernel that keeps the time
        await until(lambda: not processes_of(gpu, b"rsync"))
        if gate == "stopped":
            for pid in gates:
                os.kill(pid, signal.SIGCONT)
        await until(lambda: not processes_of(standby, b"rsync"))
        if gate == "running":
            with pytest.raises(GateError) as refusal:
                await pull
            assert refusal.value.code == "certificate-over"
        pull.cancel()
        await asyncio.gather(pull, return_exceptions=True)
        assert raw_content(standby.store / "generations") == before

    async def test_ends_the_session_at_the_far_end_by_itself(self, hosts: Lab) -> None:
        gpu = await hosts.host(Role.GPU, name="gpu-0", adopted=True)
        gpu.workspace.mkdir(exist_ok=True)
        life, said = LIFE, b""
        while b"certificate-over" not in said:
            assert b"Permission denied" in said or not said, said
            hosts.certify_for(life)
            life *= 2
            began = time.monotonic()
            async with hosts.held(gpu, READ, 0, SENDER) as client:
                assert client.stderr is not None
                said = await client.stderr.read()
        assert time.monotonic() - began > LIFE.seconds - 2.0
        await until(lambda: not processes_of(gpu, b"rsync"))

    @pytest.mark.full
    async def test_does_not_end_a_transfer_for_which_recovery_gives_the_next_one(
        self, hosts: Lab
    ) -> None:
        standby, gpu = await standby_and_slow_gpu(hosts, speed=2000)
        hosts.epoch = 0
        hosts.certify_for(2 * LIFE)
        bus = MemoryBus()
        await bus.serve(
            subjects.certificates("sync"), lambda body: hosts.authority.answer(body, "sync")
        )
        plane = StandbyDataPlane(Credentials(bus, "sync", new_key))
        began = time.monotonic()
        sealed = await plane.pull(
            Assignment(
                workspace=WORKSPACE,
                epoch=0,
                position=1,
                mode=SyncMode.MIRROR,
                path="/workspace",
                policy=Policy(sync_timeout=120.0),
                host_ca=hosts.authority.host_ca_public(WORKSPACE),
                standby=standby.host,
                primary=gpu.host,
            )
        )
        assert time.monotonic() - began > 2 * LIFE.seconds
        assert sealed.changed
        assert tree_of(standby.sealed()) == tree_of(gpu.workspace)
