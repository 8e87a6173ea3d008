"""The data plane on real parts: sshd, rsync and the gate, between machines of their own."""

import asyncio
import fcntl
import json
import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.sync.adapters.standby import StandbyDataPlane
from services.sync.service import Sync
from shared import assignments, clock, subjects
from shared.assignments import Assignment, SyncMode
from shared.bus.memory import MemoryBus
from shared.certificates import CertificateRole
from shared.credentials import Credentials
from shared.events import Event
from shared.events.sync import (
    RestoreDone,
    RestoreFailed,
    RestoreProgressed,
    SyncCompleted,
    SyncFailed,
)
from shared.machines import Role, WorkspaceName
from shared.policy import Policy
from shared.ssh import GateError, SshError, new_key
from shared.subjects import STREAM_INBOX
from tests.support.faults import fault
from tests.support.hosts import WORKSPACE, Lab, LabHost, fill, people_key, tree_of
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def standby(hosts: Lab) -> LabHost:
    return await hosts.host(Role.STANDBY, name="standby")


@pytest.fixture
async def gpu(hosts: Lab) -> LabHost:
    """A GPU that already holds data, at epoch 0."""
    host = await hosts.host(
        Role.GPU, name="gpu-0", adopted=True, furnish=lambda root: (root / "workspace").mkdir()
    )
    fill(host.workspace)
    return host


class TestASyncFromTheGpu:
    async def test_seals_an_equal_copy(self, hosts: Lab, standby: LabHost, gpu: LabHost) -> None:
        before = tree_of(gpu.workspace)
        answer = await hosts.pull(standby, gpu, 0)
        assert answer["changed"]
        assert answer["generation"] == "e000000-00000001"
        assert tree_of(standby.sealed()) == before == tree_of(gpu.workspace)
        assert answer["files"] == 8
        assert answer["bytes"] == sum(f[2] for f in before.values() if f[0] == "file")  # type: ignore[misc]

    async def test_seals_nothing_when_nothing_changed(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        first = await hosts.pull(standby, gpu, 0)
        second = await hosts.pull(standby, gpu, 0)
        assert not second["changed"]
        assert second["generation"] == first["generation"]
        assert second["taken_at"] > first["taken_at"]
        assert len(standby.generations) == 1

    async def test_leaves_out_what_its_policy_names_on_the_gpu_and_on_the_standby(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        kept = set(tree_of(gpu.workspace))
        for name in ("cache/index", "src/deep/cache/index", "scratch/a", "src/scratch/a", "b.tmp"):
            path = gpu.workspace / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("not worth it")
        excludes = {"excludes": ["cache/", "/scratch", "*.tmp", "-rf; $(reboot)"]}
        await hosts.pull(standby, gpu, 0, **excludes)
        kept |= {"src/scratch", "src/scratch/a"}
        assert set(tree_of(standby.sealed())) == kept
        await hosts.promote(standby, 1, serve=True)
        (standby.workspace / "b.tmp").write_text("not worth it here either")
        assert not (await hosts.seal(standby, 1, **excludes))["changed"]

    async def test_takes_no_more_of_the_line_than_its_policy_allows(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        (gpu.workspace / "large").write_bytes(os.urandom(2 << 20))
        answer = await hosts.pull(standby, gpu, 0, bytes_per_second=1 << 20)
        assert answer["seconds"] > 1.5
        assert tree_of(standby.sealed()) == tree_of(gpu.workspace)

    async def test_keeps_earlier_generations_as_they_were(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        await hosts.pull(standby, gpu, 0)
        before = tree_of(standby.sealed())
        (gpu.workspace / "model.pt").write_bytes(os.urandom(300_000))
        (gpu.workspace / "src" / "run.sh").chmod(0o700)
        (gpu.workspace / "src" / "train.py").unlink()
        answer = await hosts.pull(standby, gpu, 0)
        assert answer["sequence"] == 2
        assert tree_of(standby.sealed("e000000-00000001")) == before
        assert tree_of(standby.sealed("e000000-00000002")) == tree_of(gpu.workspace)
        unchanged = "src/deep/empty"
        assert (standby.sealed("e000000-00000001") / unchanged).samefile(
            standby.sealed("e000000-00000002") / unchanged
        )

    @fault(80)
    async def test_sees_a_rewrite_of_equal_size_within_one_second(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        path = gpu.workspace / "same"
        path.write_text("AAAA")
        os.utime(path, ns=(10**18, 10**18))
        await hosts.pull(standby, gpu, 0)
        path.write_text("BBBB")
        os.utime(path, ns=(10**18 + 1000, 10**18 + 1000))
        await hosts.pull(standby, gpu, 0)
        assert (standby.sealed() / "same").read_text() == "BBBB"

    @fault(77)
    async def test_of_a_wiped_source_seals_nothing(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        await hosts.pull(standby, gpu, 0)
        before = tree_of(standby.sealed())
        for path in gpu.workspace.rglob("*"):
            if path.is_file() or path.is_symlink():
                path.unlink()
        answer = await hosts.pull(standby, gpu, 0)
        assert answer["held"]["files_before"] == 8
        assert answer["held"]["files_now"] == 0
        assert not answer["changed"]
        assert tree_of(standby.sealed()) == before
        accepted = await hosts.pull(standby, gpu, 0, accept_shrink=True)
        assert accepted["changed"]
        assert accepted["files"] == 0
        assert tree_of(standby.sealed("e000000-00000001")) == before

    @fault(77)
    async def test_of_a_vanished_source_says_so(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        gpu.workspace.rename(gpu.root / "elsewhere")
        with pytest.raises(GateError) as error:
            await hosts.pull(standby, gpu, 0)
        assert error.value.code == "source-missing"
        assert standby.generations == []

    async def test_of_a_dead_gpu_says_that_nobody_answers(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        await gpu.machine.halt()
        with pytest.raises(GateError) as error:
            await hosts.pull(standby, gpu, 0)
        assert error.value.code == "source-unreachable"

    @fault(89)
    async def test_from_another_workspaces_host_is_refused(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        stranger = hosts.authority.sign_host(
            WorkspaceName("others"), (gpu.root / "etc/dumont/host_key.pub").read_text().strip()
        )
        (gpu.root / "etc/dumont/host_key-cert.pub").write_text(f"{stranger}\n")
        await gpu.machine.halt()
        await gpu.machine.boot(
            address=gpu.host.address, port=gpu.host.port, environment={}, script=None
        )
        with pytest.raises(GateError) as error:
            await hosts.pull(standby, gpu, 0)
        assert error.value.code in {"source-identity", "source-unreachable"}

    @fault(13)
    @fault(76)
    async def test_that_was_cut_goes_on_from_what_it_had(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        (gpu.workspace / "big").write_bytes(os.urandom(64 << 20))
        with pytest.raises(GateError) as error:
            await hosts.pull(standby, gpu, 0, timeout=0.25)
        assert error.value.code == "timeout"
        assert standby.generations == []
        await hosts.pull(standby, gpu, 0)
        assert tree_of(standby.sealed()) == tree_of(gpu.workspace)
        assert list((standby.store / "staging").iterdir()) == []


class TestAPromotion:
    async def test_puts_an_equal_private_copy_in_peoples_hands(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        await hosts.pull(standby, gpu, 0)
        began = time.monotonic()
        answer = await hosts.promote(standby, 1, serve=True)
        assert time.monotonic() - began < 2.0
        assert answer["epoch"] == 1
        assert answer["generation"] == "e000000-00000001"
        assert tree_of(standby.workspace) == tree_of(gpu.workspace)
        assert (standby.root / "workspace").readlink() == Path("/var/lib/dumont/live/tree")
        sealed = standby.sealed() / "model.pt"
        assert not sealed.samefile(standby.workspace / "model.pt")
        assert await hosts.promote(standby, 1, serve=True) == answer

    @fault(76)
    async def test_ends_a_running_job_of_the_old_epoch_before_it_answers(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        await hosts.pull(standby, gpu, 0)
        before = tree_of(standby.sealed())
        (gpu.workspace / "big").write_bytes(os.urandom(200 << 20))
        late = asyncio.create_task(hosts.pull(standby, gpu, 0))
        await until(lambda: jobs(standby) >= 2)
        await hosts.promote(standby, 1, serve=True)
        assert jobs(standby) == 0
        with pytest.raises(SshError):
            await late
        with pytest.raises(SshError):
            await hosts.pull(standby, gpu, 0)
        assert standby.generations == ["e000000-00000001"]
        assert tree_of(standby.sealed()) == before == tree_of(standby.workspace)

    async def test_of_a_lower_epoch_is_refused(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        await hosts.pull(standby, gpu, 0)
        await hosts.promote(standby, 1, serve=True)
        with pytest.raises(SshError):
            await hosts.promote(standby, 0, serve=False)
        assert (standby.store / "epoch").read_text() == "1\n"


class TestTheWayBack:
    async def test_brings_every_write_of_the_standby_to_the_new_gpu(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        await hosts.pull(standby, gpu, 0)
        await hosts.promote(standby, 1, serve=True)
        candidate = await hosts.host(Role.GPU, name="gpu-1", epoch=1)
        (standby.workspace / "notes").write_text("written on the standby\n")
        await hosts.seal(standby, 1)
        progress: list[dict[str, object]] = []
        first = await hosts.push(standby, candidate, 1, on_progress=progress.append)
        assert progress[-1] == {"bytes_done": first["bytes"], "bytes_total": first["bytes"]}
        assert not (candidate.root / "workspace" / "notes").exists()

        (standby.workspace / "notes").write_text("written on the standby, twice\n")
        (standby.workspace / "model.pt").unlink()
        await hosts.freeze(standby, 1)
        last = await hosts.seal(standby, 1)
        assert last["changed"]
        done = await hosts.push(standby, candidate, 1, final=True)
        assert done["generation"] == last["generation"]
        assert done["bytes_copied"] < first["bytes_copied"]
        assert tree_of(candidate.workspace) == tree_of(standby.sealed())
        assert (candidate.workspace / "notes").read_text() == "written on the standby, twice\n"

        await hosts.promote(standby, 2, serve=False)
        assert not (standby.root / "workspace").is_symlink()
        again = await hosts.pull(standby, candidate, 2)
        assert not again["changed"]
        (candidate.workspace / "more").write_text("more")
        assert (await hosts.pull(standby, candidate, 2))["generation"] == "e000002-00000001"
        answer = await hosts.promote(standby, 3, serve=True)
        assert answer["generation"] == "e000002-00000001"
        assert tree_of(standby.workspace) == tree_of(candidate.workspace)

    async def test_puts_what_was_at_the_path_aside(self, hosts: Lab, standby: LabHost) -> None:
        await hosts.promote(standby, 0, serve=True)
        (standby.workspace / "mine").write_text("1")
        await hosts.seal(standby, 0)

        def furnish(root: Path) -> None:
            (root / "workspace").mkdir(exist_ok=True)
            (root / "workspace" / "of-the-image").write_text("keep")

        candidate = await hosts.host(Role.GPU, name="gpu-1", furnish=furnish)
        await hosts.push(standby, candidate, 0, final=True)
        await hosts.push(standby, candidate, 0, final=True)
        assert [path.name for path in candidate.workspace.iterdir()] == ["mine"]
        aside = list((candidate.root / "workspace.dumont").glob("e0-a1/before-*/of-the-image"))
        assert len(aside) == 1

    async def test_sends_a_file_again_that_the_gpu_altered(
        self, hosts: Lab, standby: LabHost
    ) -> None:
        await hosts.promote(standby, 0, serve=True)
        (standby.workspace / "mine").write_text("1234")
        await hosts.seal(standby, 0)
        candidate = await hosts.host(Role.GPU, name="gpu-1")
        await hosts.push(standby, candidate, 0)
        restored = candidate.root / "workspace.dumont/e0-a1/tree/mine"
        times = restored.stat().st_mtime_ns
        restored.write_text("9999")
        os.utime(restored, ns=(times, times))
        await hosts.push(standby, candidate, 0, final=True)
        assert (candidate.workspace / "mine").read_text() == "1234"

    async def test_puts_nothing_in_place_on_a_gpu_that_keeps_altering_it(
        self, hosts: Lab, standby: LabHost
    ) -> None:
        def furnish(root: Path) -> None:
            rsync = root / "opt/simulated/bin/rsync"
            rsync.write_text(
                '#!/bin/sh\n/usr/bin/rsync "$@" || exit\n'
                "for f in /workspace.dumont/*/tree/mine; do echo 9 > $f; done\n"
            )
            rsync.chmod(0o755)

        await hosts.promote(standby, 0, serve=True)
        (standby.workspace / "mine").write_text("1234")
        await hosts.seal(standby, 0)
        candidate = await hosts.host(Role.GPU, name="gpu-1", furnish=furnish)
        with pytest.raises(GateError, match="mine") as error:
            await hosts.push(standby, candidate, 0, final=True)
        assert error.value.code == "verify-failed"
        assert not (candidate.root / "workspace" / "mine").exists()

    async def test_never_writes_to_an_adopted_host(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        before = tree_of(gpu.workspace)
        await hosts.promote(standby, 0, serve=True)
        await hosts.seal(standby, 0)
        with pytest.raises(GateError):
            await hosts.push(standby, gpu, 0, final=True)
        assert tree_of(gpu.workspace) == before

    async def test_to_a_dead_candidate_blames_it(self, hosts: Lab, standby: LabHost) -> None:
        await hosts.promote(standby, 0, serve=True)
        await hosts.seal(standby, 0)
        candidate = await hosts.host(Role.GPU, name="gpu-1")
        await candidate.machine.halt()
        with pytest.raises(GateError) as error:
            await hosts.push(standby, candidate, 0)
        assert error.value.code == "candidate-lost"


class TestAFreeze:
    async def test_ends_what_people_run_and_keeps_every_line_they_wrote(
        self, hosts: Lab, tmp_path: Path
    ) -> None:
        key, public_key = people_key(tmp_path)
        standby = await hosts.host(Role.STANDBY, name="standby", people=(public_key,))
        assert (await hosts.as_people(standby, key, "true"))[0] == 255  # nothing is served yet
        await hosts.promote(standby, 0, serve=True)
        counting = "i=0; while :; do i=$((i+1)); echo $i >> /workspace/counter; done"
        detached = f"nohup setsid sh -c '{counting}' >/dev/null 2>&1 </dev/null &"
        assert await hosts.as_people(standby, key, detached) == (0, "")
        counter = standby.workspace / "counter"
        await until(counter.exists)
        assert (await hosts.freeze(standby, 0))["ended"] >= 1
        frozen = counter.read_text()
        await hosts.seal(standby, 0)
        assert counter.read_text() == frozen == (standby.sealed() / "counter").read_text()
        assert (await hosts.as_people(standby, key, "true"))[0] == 255

        await hosts.ask(standby, CertificateRole.PROMOTE, 0, "thaw")
        assert await hosts.as_people(standby, key, "echo back >> /workspace/counter") == (0, "")
        assert counter.read_text() == f"{frozen}back\n"

    async def test_is_refused_where_nothing_is_served(self, hosts: Lab, standby: LabHost) -> None:
        with pytest.raises(GateError) as error:
            await hosts.freeze(standby, 0)
        assert error.value.code == "source-missing"


class TestTheSyncService:
    async def test_mirrors_serves_and_restores_as_its_assignments_say(
        self, hosts: Lab, standby: LabHost, gpu: LabHost
    ) -> None:
        candidate = await hosts.host(Role.GPU, name="gpu-1", epoch=1)
        bus = MemoryBus()
        await bus.serve(
            subjects.certificates("sync"), lambda body: hosts.authority.answer(body, "sync")
        )
        plane = StandbyDataPlane(Credentials(bus, "sync", new_key))
        sync = Sync(bus, plane=plane, now=clock.now, new_id=clock.new_id, ready=lambda: None)
        running = asyncio.create_task(sync.run())

        async def assign(epoch: int, mode: SyncMode, **fields: object) -> None:
            hosts.epoch = epoch
            order = Assignment(
                workspace=WORKSPACE,
                epoch=epoch,
                position=epoch,
                mode=mode,
                path="/workspace",
                policy=Policy(sync_interval=0.5, sync_excludes=("cache/",), sync_rate_max=50),
                host_ca=hosts.authority.host_ca_public(WORKSPACE),
                standby=standby.host,
                **fields,  # type: ignore[arg-type]
            )
            await bus.put(WORKSPACE, assignments.encode(order))

        def said(kind: type[Event], **fields: object) -> bool:
            events = [e.event for e in bus.published(STREAM_INBOX) if isinstance(e.event, kind)]
            return any(
                all(getattr(event, name) == value for name, value in fields.items())
                for event in events
            )

        gpu.workspace.joinpath("cache").mkdir()
        await assign(0, SyncMode.MIRROR, primary=gpu.host)
        await until(lambda: said(SyncCompleted, source=gpu.host.id, sequence=1))
        assert not standby.sealed().joinpath("cache").exists()
        gpu.workspace.joinpath("more").write_text("more")
        await until(lambda: said(SyncCompleted, source=gpu.host.id, sequence=2))
        await gpu.machine.halt()
        await until(lambda: said(SyncFailed, source=gpu.host.id))

        await hosts.promote(standby, 1, serve=True)
        restore = {"candidate": candidate.host, "attempt": 1, "round": 1, "seal": 1}
        await assign(1, SyncMode.RESTORE, **restore)
        await until(lambda: said(RestoreDone, final=False))
        assert said(RestoreProgressed)
        standby.workspace.joinpath("more").write_text("still more")
        await assign(1, SyncMode.IDLE)
        await hosts.freeze(standby, 1)
        await assign(1, SyncMode.FINAL, **(restore | {"seal": 2}))
        await until(lambda: said(RestoreDone, final=True))
        assert said(SyncCompleted, source=standby.host.id, seal=2)
        assert tree_of(candidate.workspace) == tree_of(standby.sealed())
        assert candidate.workspace.joinpath("more").read_text() == "still more"
        assert not said(RestoreFailed)

        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class TestOldGenerations:
    @fault(78)
    async def test_are_kept_from_hours_and_days_before_what_was_spoilt(
        self, hosts: Lab, standby: LabHost
    ) -> None:
        """As ransomware does: everything rewritten, in the same number and size."""
        await hosts.promote(standby, 0, serve=True)
        (standby.workspace / "thesis").write_text("good")
        for hours in (60, 30, 5, 1):
            (standby.workspace / "log").write_text(str(hours))
            await hosts.seal(standby, 0)
            took_place(standby, standby.generations[-1], hours * 3600)
        for number in range(25):
            (standby.workspace / "thesis").write_text(f"{number:04}")
            await hosts.seal(standby, 0)
        old, spoilt = standby.generations[:4], standby.generations[4:]
        assert len(spoilt) < 25
        assert [int(name[-8:]) for name in old] == [1, 2, 3, 4]
        for name in old:
            assert (standby.sealed(name) / "thesis").read_text() == "good"
        assert (standby.sealed() / "thesis").read_text() == "0024"
        listed = await hosts.ask(standby, CertificateRole.WRITE, 0, "generations")
        assert [g["generation"] for g in listed["generations"]] == standby.generations

    async def test_are_let_go_when_there_are_newer_ones_of_their_time(
        self, hosts: Lab, standby: LabHost
    ) -> None:
        await hosts.promote(standby, 0, serve=True)
        for number in range(30):
            (standby.workspace / "n").write_text(str(number))
            await hosts.seal(standby, 0)
            took_place(standby, standby.generations[-1], 600 - 20 * number)
        assert 20 < len(standby.generations) < 28
        assert standby.generations[0].endswith("00000001")

    @fault(74)
    async def test_make_room_for_the_next_one_on_a_full_disk(self, hosts: Lab) -> None:
        standby = await hosts.host(Role.STANDBY, name="small", furnish=small_store)
        try:
            gpu = await hosts.host(Role.GPU, name="busy", adopted=True)
            gpu.workspace.mkdir(exist_ok=True)
            for number in range(10):
                (gpu.workspace / "checkpoint").write_bytes(os.urandom(4 << 20))
                await hosts.pull(standby, gpu, 0)
                assert standby.generations[-1].endswith(f"{number + 1:08}")
            assert len(standby.generations) > 1, "no more goes than the next one needs"
            promoted = await hosts.promote(standby, 1, serve=True)
            assert promoted["generation"] == standby.generations[-1]
            assert tree_of(standby.workspace) == tree_of(gpu.workspace)
        finally:
            subprocess.run(["umount", "-l", str(standby.store)], check=True)

    @fault(74)
    async def test_give_way_where_the_oldest_of_them_are_being_sent(self, hosts: Lab) -> None:
        standby = await hosts.host(Role.STANDBY, name="small", furnish=small_store)
        try:
            gpu = await hosts.host(Role.GPU, name="busy", adopted=True)
            gpu.workspace.mkdir(exist_ok=True)
            with ExitStack() as sent:
                for number in range(10):
                    (gpu.workspace / "checkpoint").write_bytes(os.urandom(4 << 20))
                    await hosts.pull(standby, gpu, 0)
                    assert standby.generations[-1].endswith(f"{number + 1:08}")
                    if number < 3:
                        seal = standby.store / "generations" / standby.generations[-1] / "seal.json"
                        fcntl.flock(sent.enter_context(seal.open()), fcntl.LOCK_SH)
                assert [name[-1] for name in standby.generations[:3]] == ["1", "2", "3"]
        finally:
            subprocess.run(["umount", "-l", str(standby.store)], check=True)


def took_place(standby: LabHost, generation: str, seconds_ago: float) -> None:
    """Let a copy have been taken earlier than it was."""
    path = standby.store / "generations" / generation / "seal.json"
    sealed = json.loads(path.read_text())
    fresh = path.with_name("seal.json.earlier")  # at once: somebody may be reading it
    fresh.write_text(json.dumps(sealed | {"taken_ns": time.time_ns() - int(seconds_ago * 1e9)}))
    fresh.rename(path)


def small_store(root: Path) -> None:
    store = root / "var/lib/dumont"
    store.mkdir()
    options = "size=32m,mode=711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(store)], check=True)


def jobs(standby: LabHost) -> int:
    return len(list((standby.store / "jobs").iterdir()))
