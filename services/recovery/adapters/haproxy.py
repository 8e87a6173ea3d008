"""``Endpoint`` over HAProxy's Runtime API.

What the load balancer says is the only truth here, nothing is remembered: a restarted one says
"maintenance" for every port and is told again. A switch goes through maintenance: no session can
begin while the address changes, all old ones are gone before the new address takes the first,
and a crash between any two steps leaves a port that serves nobody, which the next look finds.
"""

import asyncio
import csv
import ipaddress
from dataclasses import dataclass

from services.recovery.adapters.authority import AuthorityError
from services.recovery.adapters.gates import Gates
from services.recovery.ports import Backend, EndpointError
from shared.certificates import CertificateRole
from shared.haproxy_config import SERVER, backend_name, backend_port
from shared.machines import Host, MachineId, WorkspaceName
from shared.ssh import SshError

COMMAND_SECONDS = 2.0
CLOSE_SECONDS = 2.0
LOOK_SECONDS = 5.0
"""How long a look through the endpoint may take, unless a setting says otherwise."""

UNCLEAR = Backend(address="", port=0)
"""Neither serving nor in maintenance, so by somebody else's hand: equal to nothing wanted."""

_ANSWER_BYTES_MAX = 4 << 20
_POLL_SECONDS = 0.002

# Bits of srv_admin_state and values of srv_op_state, from HAProxy's management guide.
_FORCED_MAINTENANCE = 0x01
_DISABLED_IN_CONFIG = 0x04  # stays set for ever after such a start, and means nothing then
_RUNNING = 2


@dataclass(frozen=True, slots=True)
class RuntimeApi:
    """One command, one connection. ``where`` is a socket's absolute path or ``host:port``."""

    where: str

    async def command(self, text: str) -> str:
        """Run one command and return what it says. Raises EndpointError."""
        assert "\n" not in text and ";" not in text  # one call, one command
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                return await self._talk(text)
        except TimeoutError:
            raise EndpointError(f"haproxy at {self.where} does not answer") from None
        except (OSError, UnicodeDecodeError) as error:
            raise EndpointError(f"haproxy at {self.where} cannot be reached: {error}") from None

    async def _talk(self, text: str) -> str:
        reader, writer = await self._open()
        try:
            writer.write(f"{text}\n".encode())
            answer = bytearray()
            while chunk := await reader.read(1 << 16):
                answer += chunk
                if len(answer) > _ANSWER_BYTES_MAX:
                    raise EndpointError(f"haproxy's answer to {text!r} has no end")
            return answer.decode().strip()
        finally:
            writer.close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.where.startswith("/"):
            return await asyncio.open_unix_connection(self.where)
        host, _, port = self.where.rpartition(":")
        if not port.isdigit():
            raise EndpointError(f"haproxy's socket {self.where!r} is no path and no host:port")
        return await asyncio.open_connection(host, int(port))


class HaproxyEndpoint:
    """The declared ports of one HAProxy.

    ``probe_host`` is where recovery itself reaches them, ``look_timeout`` is in seconds.
    """

    def __init__(
        self,
        runtime: RuntimeApi,
        *,
        probe_host: str,
        gates: Gates,
        look_timeout: float = LOOK_SECONDS,
    ) -> None:
        self._runtime = runtime
        self._probe_host = probe_host
        self._gates = gates
        self._look_timeout = look_timeout
        self._changing = asyncio.Lock()

    async def read(self) -> dict[int, Backend | None]:
        """What each declared port leads to now; ``UNCLEAR`` is to be pointed again.

        Raises EndpointError.
        """
        return parse_servers(await self._runtime.command("show servers state"))

    async def point(self, port: int, backend: Backend | None) -> None:
        """Lead new connections there and close those that lead elsewhere.

        When it returns, HAProxy said so itself. Doing it again changes nothing and closes
        nothing. Raises EndpointError; then the port may be left serving nobody.
        """
        wanted = None if backend is None else _numeric(backend)
        async with self._changing:
            if await self._leads(port) == wanted:
                return
            await self._switch(port, wanted)
            if (now := await self._leads(port)) != wanted:
                raise EndpointError(f"port {port} leads to {now}, not to {wanted} as it was told")

    async def seen(self, port: int, *, workspace: WorkspaceName, epoch: int) -> MachineId | None:
        """The machine that answers through the endpoint with this workspace's identity, or None.

        Raises EndpointError when recovery cannot make itself a certificate to look with.
        """
        endpoint = Host(
            id=MachineId("endpoint"),
            provider="ssh",
            provider_id="",
            address=self._probe_host,
            port=port,
        )
        try:
            answer = await self._gates.ask(
                endpoint,
                workspace=workspace,
                epoch=epoch,
                role=CertificateRole.PROBE,
                verb="look",
                payload={},
                timeout=self._look_timeout,
            )
        except SshError:
            return None  # whoever is there, it is not shown to be the one
        except AuthorityError as error:
            raise EndpointError(f"cannot look through port {port}: {error}") from error
        if answer.get("workspace") != workspace or not isinstance(answer.get("machine"), str):
            return None
        return MachineId(answer["machine"])

    async def _leads(self, port: int) -> Backend | None:
        ports = await self.read()
        if port not in ports:
            raise EndpointError(f"port {port} is not declared in haproxy's configuration")
        return ports[port]

    async def _switch(self, port: int, backend: Backend | None) -> None:
        name = f"{backend_name(port)}/{SERVER}"
        await self._order(f"set server {name} state maint")
        if backend is not None:
            # This one has something to say when it worked; the next look judges it.
            await self._runtime.command(
                f"set server {name} addr {backend.address} port {backend.port}"
            )
        await self._order(f"shutdown sessions server {name}")
        await self._wait_closed(port)
        if backend is not None:
            await self._order(f"set server {name} state ready")

    async def _order(self, command: str) -> None:
        """For commands that say nothing when they worked."""
        if answer := await self._runtime.command(command):
            raise EndpointError(f"haproxy refused {command!r}: {answer[:200]}")

    async def _wait_closed(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSE_SECONDS
        while count := await self._sessions(port):
            if loop.time() > deadline:
                raise EndpointError(f"port {port}: {count} old sessions do not close")
            await asyncio.sleep(_POLL_SECONDS)

    async def _sessions(self, port: int) -> int:
        text = await self._runtime.command(f"show stat {backend_name(port)} 4 -1")
        for row in csv.DictReader(text.removeprefix("# ").splitlines()):
            if row.get("svname") == SERVER and (count := row.get("scur") or "").isdigit():
                return int(count)
        raise EndpointError(f"haproxy's statistics of port {port} are not readable")


def parse_servers(text: str) -> dict[int, Backend | None]:
    """Read the answer to ``show servers state``. Raises EndpointError."""
    version, _, table = text.partition("\n")
    head, *lines = table.splitlines() or [""]
    columns = head.removeprefix("# ").split()
    if version.strip() != "1" or not head.startswith("# "):
        raise EndpointError(f"haproxy's list of servers is not readable: {text[:80]!r}")
    ports: dict[int, Backend | None] = {}
    for line in lines:
        row = dict(zip(columns, line.split(), strict=False))
        try:
            port = backend_port(row["be_name"])
            if port is not None and row["srv_name"] == SERVER:
                ports[port] = _leads_to(row)
        except (KeyError, ValueError):
            raise EndpointError(f"haproxy's line on a server is not readable: {line!r}") from None
    return ports


def _leads_to(row: dict[str, str]) -> Backend | None:
    """Raises KeyError, ValueError."""
    admin = int(row["srv_admin_state"])
    if admin & _FORCED_MAINTENANCE:
        return None
    if admin & ~_DISABLED_IN_CONFIG or int(row["srv_op_state"]) != _RUNNING:
        return UNCLEAR
    address = str(ipaddress.ip_address(row["srv_addr"]))
    return Backend(address=address, port=int(row["srv_port"]))


def _numeric(backend: Backend) -> Backend:
    """The backend with its address in the form that HAProxy shows. Raises EndpointError.

    Names are refused: HAProxy would have to resolve them, and a name can lead elsewhere tomorrow.
    """
    try:
        address = str(ipaddress.ip_address(backend.address))
    except ValueError:
        raise EndpointError(
            f"{backend.address!r} is not an IP address: register the host by its IP address"
        ) from None
    if not 0 < backend.port < 65536:
        raise EndpointError(f"port {backend.port} of {address} is not a port")
    return Backend(address=address, port=backend.port)
