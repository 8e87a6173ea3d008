"""What recovery does to hosts, on machines of their own namespaces with a real sshd and gate."""

import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.recovery.adapters.authority import Authority
from services.recovery.adapters.gates import Gates
from services.recovery.adapters.hosts import HostTimeouts, SshHosts
from services.recovery.ports import (
    HostUnreachableError,
    HostUnsuitableError,
    Plan,
    Promotion,
    Sighting,
)
from shared import clock, gate, ssh
from shared.certificates import CertificateRequest, CertificateRole
from shared.machines import Host, MachineId, Role, WorkspaceName
from shared.policy import Policy
from simulator import image
from simulator.machine import Machine
from tests.support.ssh_server import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

WORKSPACE = WorkspaceName("train")
ADDRESS = "127.0.0.2"

TIMEOUTS = HostTimeouts(login=3.0, preflight=20.0, install=10.0, settle=5.0, look=2.0)

TOOLS = ("sh", "id", "mkdir", "cat", "wc", "mv", "rm", "ln", "env")
"""What the preflight itself needs of a host."""


class Epochs:
    """The epoch that the log has, for the authority to check against."""

    def __init__(self) -> None:
        self.current = 0

    def of(self, _: WorkspaceName) -> int:
        return self.current


@pytest.fixture
def epochs() -> Epochs:
    return Epochs()


@pytest.fixture
def ca(tmp_path: Path, epochs: Epochs) -> Authority:
    return Authority(tmp_path / "keys", epoch_of=epochs.of, now=clock.now, new_id=clock.new_id)


@pytest.fixture
def hosts(ca: Authority) -> SshHosts:
    return SshHosts(ca, Gates(ca), now=clock.now, timeouts=TIMEOUTS)


@asynccontextmanager
async def machine(
    directory: Path,
    ca: Authority,
    *,
    name: str = "dumont-train-a1",
    furnish: Callable[[Path], None] = lambda root: None,
) -> AsyncIterator[tuple[Machine, Host]]:
    """A fresh machine that accepts the bootstrap key; ``furnish`` changes its disk before boot."""
    fresh = Machine(name, directory / name, ended=lambda: None)
    await fresh.build(root_login="prohibit-password")
    image.authorize(fresh.root, "root", [ca.bootstrap_public()])
    furnish(fresh.root)
    port = free_port(ADDRESS)
    try:
        await fresh.boot(address=ADDRESS, port=port, environment={}, script=None)
        host = Host(
            id=MachineId(name), provider="ssh", provider_id=name, address=ADDRESS, port=port
        )
        await until(lambda: ssh.tcp_connects(ADDRESS, port, 1.0))
        yield fresh, host
    finally:
        await fresh.remove()


def plan(role: Role, *, epoch: int = 0, policy: Policy | None = None) -> Plan:
    return Plan(
        workspace=WORKSPACE,
        role=role,
        path="/workspace",
        epoch=epoch,
        policy=policy or Policy(),
    )


def path_of(*tools: str) -> Callable[[Path], None]:
    """Leave the machine's logins a PATH with these programs only."""

    def furnish(root: Path) -> None:
        own = root / "opt" / "tools"
        own.mkdir()
        for tool in (*TOOLS, *tools):
            found = shutil.which(tool, path="/usr/local/bin:/usr/bin:/usr/sbin:/bin")
            assert found, tool
            (own / tool).symlink_to(found)
        # A fake of Debian's package tool that can do one thing.
        installer = own / "apt-get"
        installer.write_text(
            "#!/bin/sh\n"
            'for name; do [ "$name" = rsync ] && ln -s /usr/bin/rsync /opt/tools/; done\n'
        )
        installer.chmod(0o755)
        (root / "etc/environment").write_text("PATH=/opt/tools\n")

    return furnish


class TestAFreshMachine:
    async def test_answers_once_its_sshd_takes_the_bootstrap_key(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (fresh, host):
            assert await hosts.answers(host)
            image.authorize(fresh.root, "root", [ssh.new_key()[1]])
            assert not await hosts.answers(replace(host, provider="vast"))
            fresh.kill_sshd()
            assert not await hosts.answers(host)

    async def test_of_the_users_own_that_refuses_us_is_told_with_the_key_to_add(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (fresh, host):
            image.authorize(fresh.root, "root", [ssh.new_key()[1]])
            with pytest.raises(HostUnsuitableError, match="does not let us in") as refusal:
                await hosts.answers(host)
            assert ca.bootstrap_public().strip() in refusal.value.hint

    async def test_is_looked_at_without_a_verdict_before_it_is_prepared(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (_, host):
            sighting = await hosts.look(host, workspace=WORKSPACE, epoch=0)
            assert sighting is Sighting.UNKNOWN


@pytest.mark.parametrize("role", Role)
class TestAPreparedMachine:
    async def test_answers_through_its_gate_under_the_identity_of_the_workspace(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts, role: Role
    ) -> None:
        async with machine(tmp_path, ca) as (fresh, host):
            await hosts.prepare(host, plan(role))
            assert await hosts.look(host, workspace=WORKSPACE, epoch=0) is Sighting.ANSWERS
            assert (fresh.root / gate.INSTALLED_AT.lstrip("/")).read_bytes() == gate.source()
            assert await hosts.answers(host), "it can be prepared again for the next epoch"

    async def test_prepared_again_keeps_its_key_and_answers_for_the_new_epoch(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts, epochs: Epochs, role: Role
    ) -> None:
        async with machine(tmp_path, ca) as (_, host):
            await hosts.prepare(host, plan(role))
            before = shown_key(host)
            epochs.current = 1
            await hosts.prepare(host, plan(role, epoch=1))
            assert shown_key(host) == before
            assert await hosts.look(host, workspace=WORKSPACE, epoch=1) is Sighting.ANSWERS


class TestALook:
    async def test_is_silent_only_when_nobody_is_there(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (fresh, host):
            await hosts.prepare(host, plan(Role.GPU))
            fresh.kill_sshd()
            assert await hosts.look(host, workspace=WORKSPACE, epoch=0) is Sighting.SILENT

    async def test_has_no_verdict_when_our_authority_cannot_sign_or_another_machine_answers(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (_, host):
            await hosts.prepare(host, plan(Role.GPU))
            assert await hosts.look(host, workspace=WORKSPACE, epoch=7) is Sighting.UNKNOWN
            other = replace(host, id=MachineId("dumont-train-a2"))
            assert await hosts.look(other, workspace=WORKSPACE, epoch=0) is Sighting.UNKNOWN


class TestAHostWillNotDo:
    @pytest.mark.parametrize(
        ("tools", "reason"),
        [((), "no Python"), (("rsync",), "no Python")],
    )
    async def test_without_what_the_gate_needs(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts, tools: tuple[str, ...], reason: str
    ) -> None:
        async with machine(tmp_path, ca, furnish=path_of(*tools)) as (_, host):
            with pytest.raises(HostUnsuitableError, match=reason) as error:
                await hosts.prepare(host, plan(Role.GPU))
            assert "image" in error.value.hint

    async def test_without_rsync_where_none_can_be_installed(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        def furnish(root: Path) -> None:
            path_of("python3")(root)
            (root / "opt/tools/apt-get").unlink()

        async with machine(tmp_path, ca, furnish=furnish) as (_, host):
            with pytest.raises(HostUnsuitableError, match="no rsync"):
                await hosts.prepare(host, plan(Role.GPU))

    async def test_whose_sshd_accepts_no_certificates(self, tmp_path: Path, ca: Authority) -> None:
        hosts = SshHosts(ca, Gates(ca), now=clock.now, timeouts=replace(TIMEOUTS, settle=0.5))

        def furnish(root: Path) -> None:
            config = root / "etc/ssh/sshd_config"
            config.write_text(f"PubkeyAcceptedAlgorithms ssh-ed25519\n{config.read_text()}")

        async with machine(tmp_path, ca, furnish=furnish) as (_, host):
            with pytest.raises(HostUnsuitableError, match="did not take our settings") as error:
                await hosts.prepare(host, plan(Role.GPU))
            assert "sshd_config" in error.value.hint

    async def test_that_has_gone_further_than_this_epoch(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (_, host):
            await hosts.prepare(host, plan(Role.STANDBY, epoch=1))
            with pytest.raises(HostUnsuitableError, match="epoch 0, the host is at epoch 1"):
                await hosts.prepare(host, plan(Role.STANDBY, epoch=0))


async def test_a_missing_rsync_is_installed_where_the_host_has_debians_tools(
    tmp_path: Path, ca: Authority, hosts: SshHosts
) -> None:
    async with machine(
        tmp_path, ca, furnish=path_of("python3", "ssh", "ssh-keygen", "useradd")
    ) as (fresh, host):
        await hosts.prepare(host, plan(Role.GPU))
        assert (fresh.root / "opt/tools/rsync").is_symlink()
        assert (fresh.root / gate.INSTALLED_AT.lstrip("/")).exists()


class TestAStandby:
    async def test_is_promoted_as_often_as_asked_and_never_to_an_older_epoch(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (_, host):
            await hosts.prepare(host, plan(Role.STANDBY))
            began = time.monotonic()
            first = await hosts.promote(host, workspace=WORKSPACE, epoch=0, serve=True)
            assert time.monotonic() - began < 2.0
            assert first == Promotion(generation="", files=0, bytes=0, age_seconds=None)
            again = await hosts.promote(host, workspace=WORKSPACE, epoch=0, serve=True)
            assert again == first
            await hosts.promote(host, workspace=WORKSPACE, epoch=1, serve=False)
            with pytest.raises((HostUnsuitableError, HostUnreachableError)):
                await hosts.promote(host, workspace=WORKSPACE, epoch=0, serve=True)

    async def test_says_what_it_was_promoted_with_and_how_old_that_is(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (fresh, host):
            await hosts.prepare(host, plan(Role.STANDBY))
            await hosts.promote(host, workspace=WORKSPACE, epoch=0, serve=True)
            (fresh.root / "var/lib/dumont/live/tree/notes").write_text("12345")
            await seal(host, ca)
            promotion = await hosts.promote(host, workspace=WORKSPACE, epoch=1, serve=False)
            assert promotion.generation == "e000000-00000001"
            assert (promotion.files, promotion.bytes) == (1, 5)
            assert promotion.age_seconds is not None
            assert 0 <= promotion.age_seconds < 10

    async def test_lists_its_copies_and_is_promoted_with_an_older_one(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts, epochs: Epochs
    ) -> None:
        began = clock.now()
        async with machine(tmp_path, ca) as (fresh, host):
            await hosts.prepare(host, plan(Role.STANDBY))
            await hosts.promote(host, workspace=WORKSPACE, epoch=0, serve=True)
            notes = fresh.root / "var/lib/dumont/live/tree/notes"
            for written in ("good", "spoilt"):
                notes.write_text(written)
                await seal(host, ca)
            copies = await hosts.copies(host, workspace=WORKSPACE, epoch=0)
            first, second = (copy.generation for copy in copies)
            assert (first, second) == ("e000000-00000001", "e000000-00000002")
            assert all(began <= c.taken_at <= c.sealed_at <= clock.now() for c in copies)
            assert all(copy.whole for copy in copies)
            (fresh.root / f"var/lib/dumont/generations/{second}/damaged.json").write_text("{}")
            copies = await hosts.copies(host, workspace=WORKSPACE, epoch=0)
            assert [copy.whole for copy in copies] == [True, False]
            await hosts.promote(host, workspace=WORKSPACE, epoch=1, serve=False)
            epochs.current = 1
            promotion = await hosts.promote(
                host, workspace=WORKSPACE, epoch=2, serve=True, generation=first
            )
            assert promotion.generation == first
            assert notes.read_text() == "good"

    async def test_is_frozen_and_thawed_while_it_serves_and_not_otherwise(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (_, host):
            await hosts.prepare(host, plan(Role.STANDBY))
            with pytest.raises(HostUnsuitableError, match="does not serve"):
                await hosts.freeze(host, workspace=WORKSPACE, epoch=0, timeout=5.0)
            await hosts.promote(host, workspace=WORKSPACE, epoch=0, serve=True)
            await hosts.freeze(host, workspace=WORKSPACE, epoch=0, timeout=5.0)
            await hosts.thaw(host, workspace=WORKSPACE, epoch=0)

    async def test_that_is_gone_is_worth_another_try(
        self, tmp_path: Path, ca: Authority, hosts: SshHosts
    ) -> None:
        async with machine(tmp_path, ca) as (fresh, host):
            fresh.kill_sshd()
            with pytest.raises(HostUnreachableError):
                await hosts.promote(host, workspace=WORKSPACE, epoch=1, serve=True)
            with pytest.raises(HostUnreachableError):
                await hosts.prepare(host, plan(Role.STANDBY))


async def seal(host: Host, ca: Authority) -> None:
    """Have the promoted tree sealed, as the sync service does."""
    private_key, public_key = ssh.new_key()
    request = CertificateRequest(
        workspace=WORKSPACE, epoch=0, role=CertificateRole.WRITE, public_key=public_key
    )
    await ssh.call_gate(
        host,
        workspace=WORKSPACE,
        host_ca=ca.host_ca_public(WORKSPACE),
        identity=ssh.Identity(private_key, ca.sign_user(request, "sync").certificate),
        verb="seal",
        payload={},
        timeout=5.0,
    )


def shown_key(host: Host) -> str:
    """The host key that a stranger sees."""
    done = subprocess.run(
        ["ssh-keyscan", "-t", "ed25519", "-p", str(host.port), host.address],
        capture_output=True, text=True, check=True, timeout=10,
    )  # fmt: skip
    return done.stdout.split()[-1]
