"""What the gate refuses, on machines of their own with a real sshd: the fence of every host."""

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from services.recovery.ports import HostUnsuitableError
from shared.certificates import CertificateRole
from shared.machines import Role
from shared.ssh import GateError, HostRefusedUsError
from tests.support.faults import fault
from tests.support.hosts import Lab, LabHost, fill, people_key, processes_of, tree_of
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

READ, WRITE, PROBE, PROMOTE = (
    CertificateRole.READ,
    CertificateRole.WRITE,
    CertificateRole.PROBE,
    CertificateRole.PROMOTE,
)
SENDER = "rsync --server --sender -lHtpre.iLsfxCIvu"
RECEIVER = "rsync --server -lHtpre.iLsfxCIvu"


async def test_a_key_does_nothing_but_what_its_role_is_for(hosts: Lab) -> None:
    gpu = await hosts.host(Role.GPU, name="gpu")
    fill(gpu.workspace)
    before = tree_of(gpu.root / "workspace")
    for role, epoch, command in (
        (READ, 1, ""),
        (READ, 1, "id"),
        (READ, 1, "sh -c id"),
        (READ, 1, "dumont look; id"),
        (READ, 1, "dumont place"),
        (READ, 1, f"{RECEIVER} . /"),
        (READ, 1, f"{RECEIVER} --delete . /a1"),
        (READ, 1, "rsync --daemon --server ."),
        (READ, 1, "rsync --server --daemon ."),
        (READ, 1, f"{SENDER} --config=/etc/passwd . /"),
        (READ, 1, f"{SENDER} --files-from=/etc/passwd . /"),
        (READ, 1, f"{SENDER} --remove-source-files . /"),
        (READ, 1, f"{SENDER} --log-file=/workspace/log . /"),
        (READ, 1, "rsync --server --sender -slHtpre.iLsfxCIvu . /"),
        (READ, 1, "rsync --server --sender -LlHtpre.iLsfxCIvu . /"),
        (READ, 1, f"{SENDER} . / /etc"),
        (WRITE, 0, f"{SENDER} . /"),
        (WRITE, 0, f"{RECEIVER} . /a1"),
        (WRITE, 0, f"{RECEIVER} . /a1/../../etc"),
        (WRITE, 0, f"{RECEIVER} --partial-dir=/etc . /a1"),
        (WRITE, 0, "dumont promote"),
        (PROBE, 0, f"{SENDER} . /"),
        (PROBE, 0, "dumont keypair"),
    ):
        status, out, err = await hosts.raw(gpu, role, epoch, command)
        assert "uid=" not in out, command
        assert "root:" not in out, command
        assert "Traceback" not in err, command
        assert status == 3 or "error" in json.loads(out.splitlines()[-1]), command
    assert tree_of(gpu.root / "workspace") == before


async def test_a_read_key_gets_the_workspace_whatever_path_it_asks_for(hosts: Lab) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
    fill(gpu.workspace)
    request = await hosts.with_key(standby, 0, READ, source={**gpu.peer(), "path": "/etc"})
    await hosts.ask(standby, WRITE, 0, "pull", request)
    assert tree_of(standby.sealed()) == tree_of(gpu.workspace)


async def test_roles_and_epochs_that_a_host_was_not_prepared_for_do_not_log_in(hosts: Lab) -> None:
    adopted = await hosts.host(Role.GPU, name="adopted", adopted=True)
    for role, epoch in ((WRITE, 0), (READ, 1), (PROMOTE, 0)):
        with pytest.raises(HostRefusedUsError):
            await hosts.ask(adopted, role, epoch, "look")
    assert (await hosts.ask(adopted, PROBE, 1, "look"))["machine"] == "adopted"


async def test_a_request_that_makes_no_sense_is_answered_in_words(hosts: Lab) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")
    for body in (b"[]\n", b"{\n", b'{"source": 7}\n', b"\xff\n"):
        status, out, err = await hosts.raw(standby, WRITE, 0, "dumont pull", body)
        (line,) = out.splitlines()
        assert json.loads(line)["error"]["code"] in {"bad-request", "no-key"}
        assert (status, err) == (0, "")


async def test_people_on_the_standby_can_write_their_tree_and_nothing_else(
    hosts: Lab, tmp_path: Path
) -> None:
    key, public_key = people_key(tmp_path)
    standby = await hosts.host(Role.STANDBY, name="standby", people=(public_key,))
    await hosts.ask(standby, PROMOTE, 0, "promote", {"epoch": 0, "serve": True})
    assert await hosts.as_people(standby, key, "echo 1 > /workspace/mine") == (0, "")
    await hosts.ask(standby, WRITE, 0, "keypair")
    await hosts.seal(standby, 0)
    for attempt in (
        "cat /etc/dumont/keys/root",
        "cat /etc/dumont/host_key",
        "cat /var/lib/dumont/keys/e0/id",
        "ls /var/lib/dumont/generations",
        "ls /var/lib/dumont/ready",
        f"cat /var/lib/dumont/generations/{standby.generations[0]}/tree/mine",
        "echo 9 > /var/lib/dumont/epoch",
        "echo 9 > /etc/dumont/keys/workspace",
        "echo 9 >> /opt/dumont/gate.pyz",
        "touch /var/lib/dumont/live/frozen.json",
        "rm -f /workspace",
    ):
        status, _ = await hosts.as_people(standby, key, attempt)
        assert status not in {0, 255}, attempt
    await hosts.as_people(standby, key, "mkdir -p ~/.ssh; echo x >> ~/.ssh/authorized_keys")
    assert (standby.sealed() / "mine").read_text() == "1\n"


@fault(13)
async def test_a_client_that_goes_away_takes_its_job_with_it(hosts: Lab) -> None:
    standby, pull = await slow_pull(hosts)
    pull.cancel()
    with suppress(asyncio.CancelledError):
        await pull
    await until(
        lambda: not processes_of(standby, b"rsync") and not processes_of(standby, b"gate.pyz")
    )
    assert standby.generations == []


@fault(13)
async def test_what_a_killed_gate_left_running_is_ended_by_the_next_job(hosts: Lab) -> None:
    standby, pull = await slow_pull(hosts)
    for pid in processes_of(standby, b"rsync"):
        os.kill(pid, signal.SIGSTOP)  # so that it cannot notice by itself
    stopped = set(processes_of(standby, b"rsync"))
    assert stopped
    for pid in processes_of(standby, b"gate.pyz"):
        os.kill(pid, signal.SIGKILL)
    await asyncio.gather(pull, return_exceptions=True)
    await hosts.ask(standby, PROMOTE, 0, "promote", {"epoch": 0, "serve": True})
    assert stopped <= set(processes_of(standby, b"rsync"))
    await hosts.seal(standby, 0)
    assert not stopped & set(processes_of(standby, b"rsync"))


async def test_a_gpu_that_was_read_under_the_next_epoch_takes_no_more_of_the_old_one(
    hosts: Lab,
) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")
    gpu = await hosts.host(Role.GPU, name="gpu")
    await hosts.promote(standby, 0, serve=True)
    await hosts.seal(standby, 0)
    await hosts.push(standby, gpu, 0, final=True)
    status, _, _ = await hosts.raw(gpu, READ, 1, f"{SENDER} . /")
    assert status != 3
    with pytest.raises(GateError, match="epoch 0, the host is at epoch 1"):
        await hosts.push(standby, gpu, 0)


@fault(88)
async def test_a_standby_with_an_old_rsync_is_refused_with_what_to_install(hosts: Lab) -> None:
    def furnish(root: Path) -> None:
        old = root / "opt/simulated/bin/rsync"
        old.write_text("#!/bin/sh\necho 'rsync  version 3.2.7  protocol version 31'\n")
        old.chmod(0o755)

    with pytest.raises(HostUnsuitableError, match=r"rsync 3\.2\.7 is too old") as error:
        await hosts.host(Role.STANDBY, name="standby", furnish=furnish)
    assert "3.5.0" in error.value.hint


async def slow_pull(hosts: Lab) -> tuple[LabHost, asyncio.Task[object]]:
    """A pull of epoch 0 that is in the middle of a big file."""
    standby = await hosts.host(Role.STANDBY, name="standby")
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
    gpu.workspace.mkdir(exist_ok=True)
    with (gpu.workspace / "big").open("wb") as file:
        file.truncate(2 << 30)  # sparse here, two gigabytes on the way
    pull: asyncio.Task[object] = asyncio.create_task(hosts.pull(standby, gpu, 0))
    await until(lambda: any((standby.store / "staging").glob("*/tree/.big.*")))
    assert processes_of(standby, b"rsync")
    assert processes_of(standby, b"gate.pyz")
    return standby, pull
