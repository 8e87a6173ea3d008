"""The stable address: who is served where, on a real HAProxy."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.embedded.haproxy import HaproxyServer
from services.recovery.adapters.authority import Authority
from services.recovery.adapters.gates import Gates
from services.recovery.adapters.haproxy import (
    UNCLEAR,
    HaproxyEndpoint,
    RuntimeApi,
    parse_servers,
)
from services.recovery.ports import Backend, EndpointError
from shared import clock
from shared.certificates import CertificateRole, principal
from shared.haproxy_config import backend_port, haproxy_config
from shared.machines import MachineId, WorkspaceName
from tests.support.ssh_server import (
    free_port,
    gate_line,
    make_host_key,
    python_program,
    running_sshd,
)
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.anyio

WORKSPACE = WorkspaceName("train")


@dataclass
class Balancer:
    """A HAProxy process and what it was started with."""

    server: HaproxyServer
    port: int
    other_port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*self.server.argv, *arguments], stderr=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def wait_ready(self) -> None:
        eventually(self.server.ready)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@contextmanager
def running_haproxy(directory: Path) -> Iterator[Balancer]:
    ports = (free_port(), free_port())
    balancer = Balancer(HaproxyServer(directory / "haproxy", ports=ports), *ports)
    balancer.server.prepare()
    try:
        balancer.start()
        balancer.wait_ready()
        yield balancer
    finally:
        balancer.stop()


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Balancer]:
    with running_haproxy(tmp_path) as running:
        yield running


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "keys", epoch_of=lambda _: 1, now=clock.now, new_id=clock.new_id)


@pytest.fixture
def endpoint(balancer: Balancer, ca: Authority) -> HaproxyEndpoint:
    return HaproxyEndpoint(
        RuntimeApi(str(balancer.server.socket)), probe_host="127.0.0.1", gates=Gates(ca)
    )


@asynccontextmanager
async def named_host(name: str, address: str = "127.0.0.1") -> AsyncIterator[Backend]:
    """A host that says its name to whoever connects, then echoes."""
    async with AsyncExitStack() as stack:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stack.callback(writer.close)
            try:
                writer.write(f"{name}\n".encode())
                while line := await reader.readline():
                    writer.write(line)
            except ConnectionError:
                pass

        server = await asyncio.start_server(serve, address, 0)
        stack.callback(server.close)
        yield Backend(address=address, port=server.sockets[0].getsockname()[1])


class Session:
    """A user's connection through the endpoint."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> "Session":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def line(self) -> str:
        """The next line; empty when the session was closed."""
        try:
            async with asyncio.timeout(PATIENCE):
                return (await self._reader.readline()).decode().strip()
        except ConnectionError:
            return ""

    async def echoes(self) -> bool:
        try:
            self.writer.write(b"still here\n")
            return await self.line() == "still here"
        except ConnectionError:
            return False

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()


async def who_serves(port: int) -> str:
    """The name of the host behind the endpoint; empty when it serves nobody."""
    async with await Session.open(port) as session:
        return await session.line()


class TestAFreshEndpoint:
    async def test_serves_nobody(self, balancer: Balancer, endpoint: HaproxyEndpoint) -> None:
        assert await endpoint.read() == {balancer.port: None, balancer.other_port: None}
        assert await who_serves(balancer.port) == ""

    async def test_leads_where_it_is_pointed_and_only_that_port(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        async with named_host("gpu") as gpu:
            await endpoint.point(balancer.port, gpu)
            assert await endpoint.read() == {balancer.port: gpu, balancer.other_port: None}
            assert await who_serves(balancer.port) == "gpu"
            assert await who_serves(balancer.other_port) == ""


class TestASwitch:
    async def test_closes_the_old_sessions_and_leads_new_ones_to_the_new_host(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        async with named_host("gpu") as gpu, named_host("standby", "127.0.0.2") as standby:
            await endpoint.point(balancer.port, gpu)
            async with await Session.open(balancer.port) as old:
                assert await old.line() == "gpu"
                began = time.monotonic()
                await endpoint.point(balancer.port, standby)
                assert await who_serves(balancer.port) == "standby"
                assert time.monotonic() - began < 0.5
                assert not await old.echoes()

    async def test_to_nobody_closes_all_and_serves_nobody(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        async with named_host("gpu") as gpu:
            await endpoint.point(balancer.port, gpu)
            async with await Session.open(balancer.port) as old:
                assert await old.line() == "gpu"
                await endpoint.point(balancer.port, None)
                assert not await old.echoes()
            assert await who_serves(balancer.port) == ""
            assert (await endpoint.read())[balancer.port] is None

    async def test_to_where_it_leads_already_disturbs_nobody(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        async with named_host("gpu") as gpu:
            await endpoint.point(balancer.port, gpu)
            async with await Session.open(balancer.port) as session:
                assert await session.line() == "gpu"
                await endpoint.point(balancer.port, gpu)
                assert await session.echoes()

    async def test_on_one_port_disturbs_no_other(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        async with named_host("gpu") as gpu, named_host("standby") as standby:
            await endpoint.point(balancer.port, gpu)
            await endpoint.point(balancer.other_port, gpu)
            async with await Session.open(balancer.other_port) as neighbour:
                assert await neighbour.line() == "gpu"
                await endpoint.point(balancer.port, standby)
                assert await neighbour.echoes()

    async def test_under_a_storm_of_clients_leaves_none_with_the_old_host(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        served: dict[Session, str] = {}
        names = ("gpu", "standby")
        async with AsyncExitStack() as stack:
            hosts = [await stack.enter_async_context(named_host(name)) for name in names]
            storm = True

            async def client() -> None:
                """Connects without a pause and keeps every session that is served."""
                while storm:
                    session = await Session.open(balancer.port)
                    stack.callback(session.writer.close)
                    if name := await session.line():
                        served[session] = name

            clients = [asyncio.create_task(client()) for _ in range(8)]
            for turn in range(1, 9):
                await endpoint.point(balancer.port, hosts[turn % 2])
                await asyncio.sleep(0.02)  # those that were just connecting come to their name
                old = [session for session, name in served.items() if name != names[turn % 2]]
                assert not [session for session in old if await session.echoes()]
                for session in old:
                    del served[session]
            storm = False
            await asyncio.gather(*clients)
            assert served


class TestAHaproxyThat:
    async def test_was_killed_serves_nobody_until_told_again(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        async with named_host("gpu") as gpu:
            await endpoint.point(balancer.port, gpu)
            balancer.processes[0].kill()
            balancer.processes[0].wait()
            with pytest.raises(EndpointError, match="cannot be reached"):
                await endpoint.read()
            with pytest.raises(EndpointError):
                await endpoint.point(balancer.port, None)
            balancer.start()
            balancer.wait_ready()
            assert (await endpoint.read())[balancer.port] is None
            assert await who_serves(balancer.port) == ""
            await endpoint.point(balancer.port, gpu)
            assert await who_serves(balancer.port) == "gpu"

    async def test_was_reloaded_keeps_no_session_in_the_old_process(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        async with named_host("gpu") as gpu:
            await endpoint.point(balancer.port, gpu)
            async with await Session.open(balancer.port) as session:
                assert await session.line() == "gpu"
                old = balancer.processes[0]
                balancer.start("-sf", str(old.pid))
                await asyncio.to_thread(eventually, lambda: old.poll() is not None)
                assert not await session.echoes()
            balancer.wait_ready()
            assert await endpoint.read() == {balancer.port: None, balancer.other_port: None}

    async def test_was_left_half_way_through_a_switch_is_led_on(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        runtime = RuntimeApi(str(balancer.server.socket))
        async with named_host("gpu") as gpu, named_host("standby") as standby:
            await endpoint.point(balancer.port, gpu)
            async with await Session.open(balancer.port) as old:
                assert await old.line() == "gpu"
                await runtime.command(f"set server ws_{balancer.port}/primary state maint")
                assert (await endpoint.read())[balancer.port] is None
                assert not await old.echoes(), "maintenance alone has to close what is open"
            await endpoint.point(balancer.port, standby)
            assert await who_serves(balancer.port) == "standby"

    async def test_was_drained_by_hand_is_seen_to_be_wrong_and_pointed_again(
        self, balancer: Balancer, endpoint: HaproxyEndpoint
    ) -> None:
        runtime = RuntimeApi(str(balancer.server.socket))
        async with named_host("gpu") as gpu:
            await endpoint.point(balancer.port, gpu)
            await runtime.command(f"set server ws_{balancer.port}/primary state drain")
            assert (await endpoint.read())[balancer.port] == UNCLEAR
            await endpoint.point(balancer.port, gpu)
            assert await who_serves(balancer.port) == "gpu"

    async def test_is_reached_by_host_and_port_serves_the_same(
        self, tmp_path: Path, ca: Authority
    ) -> None:
        port, runtime = free_port(), f"127.0.0.1:{free_port()}"
        server = HaproxyServer(tmp_path, ports=[port])
        server.config.write_text(haproxy_config(ports=[port], runtime=runtime, bind="127.0.0.1"))
        process = subprocess.Popen(server.argv, stderr=subprocess.DEVNULL)
        try:
            endpoint = HaproxyEndpoint(RuntimeApi(runtime), probe_host="127.0.0.1", gates=Gates(ca))
            async with asyncio.timeout(PATIENCE), named_host("gpu") as gpu:
                while True:
                    try:
                        await endpoint.point(port, gpu)
                        break
                    except EndpointError:
                        await asyncio.sleep(0.01)
                assert await who_serves(port) == "gpu"
        finally:
            process.kill()
            process.wait()

    async def test_says_nonsense_is_not_believed(self, tmp_path: Path, ca: Authority) -> None:
        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"Unknown command, but maybe one of these\n")
            writer.close()

        path = str(tmp_path / "nonsense.sock")
        server = await asyncio.start_unix_server(nonsense, path)
        endpoint = HaproxyEndpoint(RuntimeApi(path), probe_host="127.0.0.1", gates=Gates(ca))
        with pytest.raises(EndpointError, match="not readable"):
            await endpoint.read()
        server.close()


class TestItRefuses:
    async def test_a_port_that_was_never_declared(self, endpoint: HaproxyEndpoint) -> None:
        with pytest.raises(EndpointError, match="not declared"):
            await endpoint.point(1, None)

    @pytest.mark.parametrize(
        "address", ["", "gpu.example.com", "127.0.0.1;disable frontend x", "127.0.0.1\nquit", "1"]
    )
    async def test_what_is_no_ip_address(
        self, balancer: Balancer, endpoint: HaproxyEndpoint, address: str
    ) -> None:
        with pytest.raises(EndpointError, match="not an IP address"):
            await endpoint.point(balancer.port, Backend(address=address, port=22))

    @pytest.mark.parametrize("port", [0, -1, 65536])
    async def test_what_is_no_port(
        self, balancer: Balancer, endpoint: HaproxyEndpoint, port: int
    ) -> None:
        with pytest.raises(EndpointError, match="not a port"):
            await endpoint.point(balancer.port, Backend(address="127.0.0.1", port=port))

    @pytest.mark.parametrize(
        "answer",
        [
            "",
            "2\n# be_name srv_name\n",
            "1\nbe_name srv_name\nws_1 primary",
            "1\n# be_name srv_name srv_admin_state\nws_1 primary",
            "1\n# be_name srv_name srv_admin_state\nws_1 primary many",
            "1\n# be_name srv_name srv_admin_state srv_op_state srv_addr srv_port\n"
            "ws_1 primary 0 2 - 22",
        ],
    )
    def test_to_guess_what_a_list_of_servers_means(self, answer: str) -> None:
        with pytest.raises(EndpointError, match="not readable"):
            parse_servers(answer)


LOOK = """
import json, sys
print(json.dumps({"ok": {"workspace": "train", "machine": "dumont-train-a1", "epoch": 1}}))
"""


class TestThroughTheEndpoint:
    async def test_the_machine_behind_it_is_seen_by_its_identity(
        self, tmp_path: Path, balancer: Balancer, endpoint: HaproxyEndpoint, ca: Authority
    ) -> None:
        public_key = make_host_key(tmp_path)
        certificate = ca.sign_host(WORKSPACE, public_key)
        async with running_sshd(
            tmp_path, host_public_key=public_key, host_certificate=certificate
        ) as server:
            name = principal(WORKSPACE, 1, CertificateRole.PROBE)
            program = python_program(tmp_path, "look.py", LOOK)
            server.authorized_keys.write_text(gate_line(name, ca.user_ca_public(), program))
            assert await endpoint.seen(balancer.port, workspace=WORKSPACE, epoch=1) is None
            await endpoint.point(balancer.port, Backend(address=server.address, port=server.port))
            machine = await endpoint.seen(balancer.port, workspace=WORKSPACE, epoch=1)
            assert machine == MachineId("dumont-train-a1")
            other = WorkspaceName("other")
            assert await endpoint.seen(balancer.port, workspace=other, epoch=1) is None
            assert await endpoint.seen(balancer.port, workspace=WORKSPACE, epoch=2) is None


def test_a_socket_path_that_is_too_long_is_refused_before_anything_starts(tmp_path: Path) -> None:
    server = HaproxyServer(tmp_path / ("long" * 30), ports=[1])
    with pytest.raises(ValueError, match="too long for a unix socket"):
        server.prepare()


def test_names_of_other_backends_are_not_taken_for_ours() -> None:
    names = ["ws_20000", "ws_", "ws_x", "stats", "20000", "ws_²"]
    assert [backend_port(name) for name in names] == [20000, None, None, None, None, None]
