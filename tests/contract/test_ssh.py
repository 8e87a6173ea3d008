"""How SSH failures are told apart, on a real sshd and on peers that misbehave."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from services.recovery.adapters.authority import Authority
from shared import clock, ssh
from shared.certificates import CertificateRequest, CertificateRole, principal
from shared.machines import Host, MachineId, WorkspaceName
from tests.support.faults import fault
from tests.support.ssh_server import (
    SshServer,
    free_port,
    gate_line,
    make_host_key,
    python_program,
    running_sshd,
)

pytestmark = pytest.mark.anyio

WORKSPACE = WorkspaceName("train")
EPOCH = 3

# Speaks the gate's protocol and does on demand what a gate must never do.
GATE = """
import json, os, sys, time
verb = os.environ["SSH_ORIGINAL_COMMAND"].removeprefix("dumont ")
payload = json.load(sys.stdin)
def say(line):
    print(json.dumps(line), flush=True)
if verb == "echo":
    print("Welcome to a machine whose shell talks", flush=True)
    say({"progress": {"bytes_done": 1}})
    say({"progress": {"bytes_done": 2}})
    say({"ok": {"payload": payload}})
elif verb == "refuse":
    say({"error": {"code": "stale-epoch", "reason": "epoch 2 is over", "hint": "ask again"}})
elif verb == "die":
    sys.exit("no space left\\x1b[31m on device")
elif verb == "hang":
    while True:
        print(flush=True)
        time.sleep(0.05)
elif verb == "cut":
    os.kill(os.getppid(), 9)
elif verb == "babble":
    while True:
        sys.stdout.write("x" * 65536)
"""


class Call(Protocol):
    def __call__(self, verb: str = "echo", **changes: Any) -> Awaitable[dict[str, Any]]: ...


def authority(directory: Path, now: Callable[[], datetime] = clock.now) -> Authority:
    return Authority(directory / "keys", epoch_of=lambda _: EPOCH, now=now, new_id=clock.new_id)


def identity(ca: Authority, epoch: int = EPOCH) -> ssh.Identity:
    return ca.identity(WORKSPACE, epoch, CertificateRole.PROBE)


@pytest.fixture
async def certified(tmp_path: Path) -> AsyncIterator[tuple[SshServer, Call]]:
    """A host of the workspace with a gate, and the call that is in order."""
    ca = authority(tmp_path)
    public_key = make_host_key(tmp_path)
    certificate = ca.sign_host(WORKSPACE, public_key)
    async with running_sshd(
        tmp_path, host_public_key=public_key, host_certificate=certificate
    ) as server:
        allow(server, ca, tmp_path)
        yield server, caller(server.host(), ca)


def allow(server: SshServer, ca: Authority, directory: Path) -> None:
    """The gate line of a prepared host, for the probe role."""
    name = principal(WORKSPACE, EPOCH, CertificateRole.PROBE)
    program = python_program(directory, "gate.py", GATE)
    server.authorized_keys.write_text(gate_line(name, ca.user_ca_public(), program))


def caller(host: Host, ca: Authority) -> Call:
    async def call(verb: str = "echo", **changes: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "workspace": WORKSPACE,
            "host_ca": ca.host_ca_public(WORKSPACE),
            "identity": identity(ca),
            "payload": {"a": 1},
            "timeout": 5.0,
        }
        return await ssh.call_gate(host, verb=verb, **{**arguments, **changes})

    return call


def somewhere(port: int) -> Host:
    return Host(
        id=MachineId("machine-1"),
        provider="ssh",
        provider_id="",
        address="127.0.0.1",
        port=port,
    )


@asynccontextmanager
async def peer(first_word: bytes | None) -> AsyncIterator[Host]:
    """A peer that says something and hangs up; with None it stays silent and holds the line."""
    async with AsyncExitStack() as stack:

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stack.callback(writer.close)
            if first_word is not None:
                writer.write(first_word)
                await writer.drain()
                writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        stack.callback(server.close)
        yield somewhere(server.sockets[0].getsockname()[1])


class TestTheGate:
    async def test_answers_after_its_progress_and_noise_of_a_login_shell_is_no_answer(
        self, certified: tuple[SshServer, Call]
    ) -> None:
        _, call = certified
        progress: list[dict[str, Any]] = []
        answer = await call("echo", payload={"b": [1]}, on_progress=progress.append)
        assert answer == {"payload": {"b": [1]}}
        assert progress == [{"bytes_done": 1}, {"bytes_done": 2}]

    async def test_is_reached_through_another_address_under_the_same_identity(
        self, certified: tuple[SshServer, Call], tmp_path: Path
    ) -> None:
        server, _ = certified
        elsewhere = caller(somewhere(1), authority(tmp_path))
        assert await elsewhere("echo", address=(server.address, server.port))

    async def test_refuses_with_its_own_words(self, certified: tuple[SshServer, Call]) -> None:
        _, call = certified
        with pytest.raises(ssh.GateError) as refusal:
            await call("refuse")
        assert (refusal.value.code, refusal.value.reason) == ("stale-epoch", "epoch 2 is over")
        assert refusal.value.hint == "ask again"

    async def test_that_dies_leaves_the_outcome_unknown_and_its_last_words_are_readable(
        self, certified: tuple[SshServer, Call]
    ) -> None:
        _, call = certified
        with pytest.raises(ssh.GateDiedError, match=r"exit status 1.*no space left \[31m on dev"):
            await call("die")

    @pytest.mark.parametrize("verb", ["cut", "babble"])
    async def test_that_breaks_off_or_never_ends_its_line_leaves_the_outcome_unknown(
        self, certified: tuple[SshServer, Call], verb: str
    ) -> None:
        _, call = certified
        with pytest.raises(ssh.GateDiedError):
            await call(verb)

    async def test_that_hangs_is_left_when_the_time_is_up(
        self, certified: tuple[SshServer, Call]
    ) -> None:
        _, call = certified
        began = time.monotonic()
        with pytest.raises(ssh.GateDiedError, match="outcome is unknown"):
            await call("hang", timeout=0.7)
        assert time.monotonic() - began < 1.5


class TestNobodyAnswers:
    async def test_when_nothing_listens(self, tmp_path: Path) -> None:
        with pytest.raises(ssh.HostSilentError):
            await caller(somewhere(free_port()), authority(tmp_path))()

    async def test_when_the_peer_hangs_up_without_a_word(self, tmp_path: Path) -> None:
        async with peer(b"") as host:
            with pytest.raises(ssh.HostSilentError, match="without a word"):
                await caller(host, authority(tmp_path))()

    async def test_when_the_peer_takes_the_call_and_says_nothing(self, tmp_path: Path) -> None:
        async with peer(None) as host:
            with pytest.raises(ssh.HostSilentError, match="said nothing"):
                await caller(host, authority(tmp_path))(timeout=0.2)

    async def test_and_tcp_alone_tells_the_two_apart(self) -> None:
        async with peer(None) as host:
            assert await ssh.tcp_connects(host.address, host.port, 1.0)
        assert not await ssh.tcp_connects("127.0.0.1", free_port(), 1.0)


class TestSomebodyAnswersAndTheFaultIsOurs:
    async def test_when_sshd_turns_us_away_before_its_banner(self, tmp_path: Path) -> None:
        async with peer(b"Exceeded MaxStartups\r\n") as host:
            with pytest.raises(ssh.HostRefusedUsError, match="Exceeded MaxStartups"):
                await caller(host, authority(tmp_path))()

    @fault(83)
    async def test_when_our_certificate_has_expired(
        self, certified: tuple[SshServer, Call], tmp_path: Path
    ) -> None:
        _, call = certified
        earlier = authority(tmp_path, lambda: clock.now() - timedelta(hours=1))
        with pytest.raises(ssh.HostRefusedUsError):
            await call(identity=identity(earlier))

    @fault(83)
    async def test_when_our_certificate_is_not_valid_yet(
        self, certified: tuple[SshServer, Call], tmp_path: Path
    ) -> None:
        _, call = certified
        later = authority(tmp_path, lambda: clock.now() + timedelta(hours=1))
        with pytest.raises(ssh.HostRefusedUsError):
            await call(identity=identity(later))

    async def test_when_our_certificate_is_for_another_epoch(
        self, certified: tuple[SshServer, Call], tmp_path: Path
    ) -> None:
        _, call = certified
        with pytest.raises(ssh.HostRefusedUsError):
            await call(identity=identity(authority(tmp_path), epoch=EPOCH + 1))

    async def test_when_our_certificate_is_of_another_installation(
        self, certified: tuple[SshServer, Call], tmp_path: Path
    ) -> None:
        _, call = certified
        with pytest.raises(ssh.HostRefusedUsError):
            await call(identity=identity(authority(tmp_path / "other")))

    async def test_when_our_key_material_is_damaged(
        self, certified: tuple[SshServer, Call]
    ) -> None:
        _, call = certified
        with pytest.raises(ssh.HostRefusedUsError, match="our own key material"):
            await call(identity=ssh.Identity("", ""))

    async def test_when_a_name_cannot_be_looked_up_here(self, tmp_path: Path) -> None:
        call = caller(somewhere(1), authority(tmp_path))
        with pytest.raises(ssh.HostRefusedUsError, match="look up"):
            await call(address=("no-such-host.invalid", 22))

    async def test_when_the_host_certificate_ran_out_for_want_of_our_renewal(
        self, tmp_path: Path
    ) -> None:
        ca = authority(tmp_path)
        public_key = make_host_key(tmp_path)
        expired = ca.sign_host(WORKSPACE, public_key, lifetime=timedelta(seconds=-1))
        async with running_sshd(
            tmp_path, host_public_key=public_key, host_certificate=expired
        ) as server:
            with pytest.raises(ssh.HostRefusedUsError, match="clock"):
                await caller(server.host(), ca)()


class TestItIsAnotherHost:
    @fault(89)
    async def test_without_a_certificate(self, tmp_path: Path) -> None:
        public_key = make_host_key(tmp_path)
        async with running_sshd(tmp_path, host_public_key=public_key) as server:
            with pytest.raises(ssh.HostIdentityError):
                await caller(server.host(), authority(tmp_path))()

    @fault(89)
    async def test_with_a_certificate_of_the_neighbours_authority(self, tmp_path: Path) -> None:
        ca = authority(tmp_path)
        public_key = make_host_key(tmp_path)
        neighbours = ca.sign_host(WorkspaceName("neighbour"), public_key)
        async with running_sshd(
            tmp_path, host_public_key=public_key, host_certificate=neighbours
        ) as server:
            with pytest.raises(ssh.HostIdentityError, match="not trusted"):
                await caller(server.host(), ca)()

    async def test_under_another_name_of_the_same_authority(
        self, certified: tuple[SshServer, Call]
    ) -> None:
        _, call = certified
        with pytest.raises(ssh.HostIdentityError, match="principal"):
            await call(workspace=WorkspaceName("neighbour"))


class TestItAnswersAndBreaksOff:
    async def test_during_the_login(self, tmp_path: Path) -> None:
        async with peer(b"SSH-2.0-OpenSSH_9.2p1\r\n") as host:
            with pytest.raises(ssh.GateDiedError, match="during the login"):
                await caller(host, authority(tmp_path))()


class TestTheBootstrapKey:
    @pytest.fixture
    async def fresh(self, tmp_path: Path) -> AsyncIterator[tuple[SshServer, str]]:
        """A machine as rented: (server, bootstrap private key)."""
        private_key, public_key = ssh.new_key()
        host_key = make_host_key(tmp_path)
        async with running_sshd(tmp_path, host_public_key=host_key) as server:
            server.authorized_keys.write_text(f"{public_key}\n")
            yield server, private_key

    async def test_runs_a_command_with_its_input_and_tells_how_it_ended(
        self, fresh: tuple[SshServer, str]
    ) -> None:
        server, key = fresh
        done = await ssh.run_root(
            server.host(), private_key=key, command="wc -c; echo bad >&2; exit 7",
            stdin=b"x" * 3_000_000, timeout=5.0, known_host_key=None,
        )  # fmt: skip
        assert (done.stdout.strip(), done.stderr, done.exit_status) == (b"3000000", b"bad\n", 7)

    @fault(89)
    async def test_accepts_an_unknown_host_once_and_then_only_the_same_one(
        self, fresh: tuple[SshServer, str]
    ) -> None:
        server, key = fresh

        async def run(known: str | None) -> ssh.Completed:
            return await ssh.run_root(
                server.host(), private_key=key, command="true", timeout=5.0, known_host_key=known
            )

        seen = (await run(None)).host_key
        assert seen.split()[:2] == server.host_public_key.split()[:2]
        assert (await run(seen)).exit_status == 0
        with pytest.raises(ssh.HostIdentityError):
            await run(ssh.new_key()[1])

    async def test_that_is_not_accepted_is_our_fault(self, fresh: tuple[SshServer, str]) -> None:
        server, _ = fresh
        with pytest.raises(ssh.HostRefusedUsError):
            await ssh.run_root(
                server.host(), private_key=ssh.new_key()[0], command="true", timeout=5.0,
                known_host_key=None,
            )  # fmt: skip

    async def test_is_the_only_key_tried_whatever_the_user_of_this_machine_has(
        self, fresh: tuple[SshServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server, accepted = fresh
        home = tmp_path / "home"
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh" / "id_ed25519").write_text(accepted)
        (home / ".ssh" / "config").write_text("Host *\n  ProxyCommand false\n  Port 1\n")
        monkeypatch.setenv("HOME", str(home))
        assert Path.home() == home
        with pytest.raises(ssh.HostRefusedUsError):
            await ssh.run_root(
                server.host(), private_key=ssh.new_key()[0], command="true", timeout=5.0,
                known_host_key=None,
            )  # fmt: skip


async def test_a_failed_call_leaves_no_socket_behind(tmp_path: Path) -> None:
    call = caller(somewhere(free_port()), authority(tmp_path))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(ssh.HostSilentError):
            await call()
    async with peer(b"") as host:
        for _ in range(5):
            with pytest.raises(ssh.HostSilentError):
                await caller(host, authority(tmp_path))()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


async def test_the_dates_of_a_certificate_can_be_read(tmp_path: Path) -> None:
    now = clock.now()
    ca = authority(tmp_path, lambda: now)
    request = CertificateRequest(
        workspace=WORKSPACE, epoch=EPOCH, role=CertificateRole.PROBE, public_key=ssh.new_key()[1]
    )
    after, before = ssh.certificate_validity(ca.sign_user(request, "health").certificate)
    assert (after, before) == (int(now.timestamp()) - 60, int(now.timestamp()) + 900)
    with pytest.raises(ValueError, match="not a certificate"):
        ssh.certificate_validity(request.public_key)
