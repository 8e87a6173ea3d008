"""Restores through the real gate: parallel, cut, resumed, and never over data that is not ours."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from shared.certificates import CertificateRole
from shared.gate.program.peers import ALIVE_MISSED, ALIVE_SECONDS
from shared.machines import Role
from shared.ssh import GateError
from tests.support.faults import fault
from tests.support.hosts import (
    Lab,
    LabHost,
    people_key,
    processes_of,
    slow_rsync,
    tree_of,
)
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

WRITE = CertificateRole.WRITE
STREAMS = 4
STREAM_BYTES = 4 << 20
SLOW = 2000
"""Kilobytes a second: a stream takes more than a second."""


async def stream(hosts: Lab, source: Path, candidate: LabHost) -> asyncio.subprocess.Process:
    """rsync as the standby runs it, into the first attempt of the candidate."""
    shell = " ".join([*hosts.login(WRITE, 0), "-p", str(candidate.host.port)])
    return await asyncio.create_subprocess_exec(
        *("rsync", "-rlptH", "--no-devices", "--no-specials", "--numeric-ids"),
        *(
            "--modify-window=-1",
            f"--rsh={shell}",
        ),
        *(f"{source}/", f"root@{candidate.host.address}:/a1"),
        start_new_session=True,
    )


@fault(76)
async def test_four_streams_run_side_by_side_and_one_that_was_cut_goes_on_beside_its_dead_peer(
    hosts: Lab, tmp_path: Path
) -> None:
    candidate = await hosts.host(Role.GPU, name="gpu-1", furnish=slow_rsync(SLOW))
    sources = [tmp_path / f"source-{number}" for number in range(STREAMS)]
    for number, source in enumerate(sources):
        (source / f"part-{number}").mkdir(parents=True)
        (source / f"part-{number}" / "data").write_bytes(os.urandom(STREAM_BYTES))
    await hosts.ask(candidate, WRITE, 0, "restore-begin", {"attempt": 1, "bytes": 1})
    streams = [await stream(hosts, source, candidate) for source in sources]
    dead = streams.pop(0)
    tree = candidate.root / "workspace.dumont/e0-a1/tree"
    try:
        await until(lambda: all(list(tree.glob(f"part-{n}/.data.*")) for n in range(STREAMS)))
        os.killpg(dead.pid, signal.SIGSTOP)  # it neither sends nor closes: a peer that is gone
        resumed = await stream(hosts, sources[0], candidate)
        assert await resumed.wait() == 0
        assert [await other.wait() for other in streams] == [0] * (STREAMS - 1)
        assert dead.returncode is None, "the dead stream was still there and was in nobody's way"
        await hosts.ask(candidate, WRITE, 0, "manifest", {"attempt": 1})
        before = tree_of(tree)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(dead.pid, signal.SIGCONT)
    assert await dead.wait() != 0, "what was compared is not written to any more"
    assert tree_of(tree) == before
    for number, source in enumerate(sources):
        arrived = (tree / f"part-{number}" / "data").read_bytes()
        assert arrived == (source / f"part-{number}" / "data").read_bytes()


@fault(76)
async def test_a_restore_whose_peer_died_without_a_word_is_resumed_by_itself(hosts: Lab) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")
    await hosts.promote(standby, 0, serve=True)
    (standby.workspace / "big").write_bytes(os.urandom(STREAM_BYTES))
    await hosts.seal(standby, 0)
    candidate = await hosts.host(Role.GPU, name="gpu-1", furnish=slow_rsync(SLOW))
    push = asyncio.create_task(hosts.push(standby, candidate, 0, final=True))
    tree = candidate.root / "workspace.dumont/e0-a1/tree"
    await until(lambda: bool(list(tree.glob(".big.*"))))
    dead = {
        pid
        for word in (b"sshd: root", b"gate.pyz", b"rsync")
        for pid in processes_of(candidate, word)
    }
    for pid in dead:
        os.kill(pid, signal.SIGSTOP)
    assert ALIVE_SECONDS * (ALIVE_MISSED + 1) < 10
    assert (await push)["generation"] == "e000000-00000001"
    assert tree_of(candidate.workspace) == tree_of(standby.sealed())
    for pid in dead:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    await until(lambda: not processes_of(candidate, b"rsync"))
    assert tree_of(candidate.workspace) == tree_of(standby.sealed())


@fault(76)
async def test_a_way_back_keeps_every_line_that_people_were_told_is_written(
    hosts: Lab, tmp_path: Path
) -> None:
    key, public_key = people_key(tmp_path)
    standby = await hosts.host(Role.STANDBY, name="standby", people=(public_key,))
    candidate = await hosts.host(Role.GPU, name="gpu-1")
    await hosts.promote(standby, 0, serve=True)
    count = "i=0; while :; do i=$((i+1)); echo $i >> /workspace/{0}; echo $i; done"
    detached = f"nohup setsid sh -c '{count.format('detached')}' >/dev/null 2>&1 </dev/null &"
    assert await hosts.as_people(standby, key, detached) == (0, "")
    session = asyncio.create_task(hosts.as_people(standby, key, count.format("session")))
    for name in ("detached", "session"):
        await until((standby.workspace / name).exists)
    await hosts.seal(standby, 0)
    await hosts.push(standby, candidate, 0)
    await hosts.seal(standby, 0)
    assert not session.done(), "people work on while the rounds go"
    await hosts.freeze(standby, 0)
    _, told = await session
    written = {name: (standby.workspace / name).read_text() for name in ("detached", "session")}
    await hosts.seal(standby, 0)
    await hosts.push(standby, candidate, 0, final=True)
    await hosts.promote(standby, 1, serve=False)
    for name, lines in written.items():
        assert (candidate.workspace / name).read_text() == lines
    acknowledged = [line for line in told.splitlines() if line.isdigit()]
    assert acknowledged
    kept = set((candidate.workspace / "session").read_text().splitlines())
    assert set(acknowledged[:-1]) <= kept  # the last line may have been cut on its way here


async def test_a_restore_never_touches_what_it_has_not_made(hosts: Lab) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")

    def furnish(root: Path) -> None:
        for place in ("workspace", "workspace.dumont/e0-a1"):
            (root / place).mkdir(parents=True)
            (root / place / "precious").write_text("mine")

    candidate = await hosts.host(Role.GPU, name="gpu-1", furnish=furnish)
    with pytest.raises(GateError) as refusal:
        await hosts.push(standby, candidate, 0, final=True)
    assert refusal.value.code == "no-generation"

    await hosts.promote(standby, 0, serve=True)
    empty = await hosts.seal(standby, 0)
    assert (empty["files"], empty["bytes"]) == (0, 0)
    with pytest.raises(GateError, match="target-not-ours") as refusal:
        await hosts.push(standby, candidate, 0, final=True)
    assert refusal.value.code == "candidate-refused"
    assert (candidate.workspace / "precious").read_text() == "mine"

    await hosts.push(standby, candidate, 0, attempt=2, final=True)
    assert list(candidate.workspace.iterdir()) == []
    kept = sorted((candidate.root / "workspace.dumont").rglob("precious"))
    assert [path.read_text() for path in kept] == ["mine", "mine"]
