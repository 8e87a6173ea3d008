"""The Compute Engine API, off the event loop. No policy here."""

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from shared.clouds.calls import Pace, read
from shared.clouds.errors import AuthError, NoAnswerError, NotFoundError
from shared.clouds.gce_answers import Vm, VmSpec

if TYPE_CHECKING:
    from shared.clouds.gce_wire import Operation, Wire

T = TypeVar("T")

PUBLIC_URL = "https://compute.googleapis.com"


class GceClient:
    """One project. Every call raises CloudError; those that change something are not repeated.

    A plain ``http://`` URL is an emulator and gets no credentials; otherwise the application
    default credentials are used. ``timeout`` is in seconds for one request, ``poll`` the pause
    between looks at an operation. ``may_change`` is asked right before each call that changes
    something, in that call's thread, and may raise.
    """

    def __init__(
        self,
        *,
        project: str,
        url: str = PUBLIC_URL,
        timeout: float = 20.0,
        poll: float = 1.0,
        may_change: Callable[[], object] = lambda: None,
    ) -> None:
        self._project = project
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._may_change = may_change
        self.poll = poll
        self._pace = Pace({}, scale=min(1.0, poll))
        self._wire: Wire | None = None
        self._making = threading.Lock()

    async def aclose(self) -> None:
        if self._wire is not None:
            self._wire.close()

    # --- reading ------------------------------------------------------------------------

    async def get(self, zone: str, name: str) -> Vm | None:
        """One VM; None when the service says by name that it does not exist."""
        try:
            return await self._read(lambda wire: wire.get(zone, name))
        except NotFoundError:
            return None

    async def all(self) -> list[Vm]:
        """Every VM of the project, all zones and pages.

        Raises UnexpectedAnswerError when the service left a zone out.
        """
        return await self._read(lambda wire: wire.all())

    # --- changing -----------------------------------------------------------------------

    async def insert(self, zone: str, spec: VmSpec, *, request_id: UUID, within: float) -> None:
        """Create a VM and wait, at most ``within`` seconds, until the service has done so.

        The same ``request_id`` again is the same creation. Raises NoCapacityNowError,
        RefusedError with code ``alreadyExists``, and NoAnswerError when it is still at it.
        """
        await self._change(
            f"create {spec.name}", zone, lambda wire: wire.insert(zone, spec, request_id), within
        )

    async def start(self, zone: str, name: str, *, within: float) -> None:
        """Start a stopped VM and wait for it. Raises as ``insert``; NotFoundError."""
        await self._change(
            f"start {name}", zone, lambda wire: wire.change("start", zone, name), within
        )

    async def stop(self, zone: str, name: str, *, within: float) -> None:
        """Stop a VM and wait for it; its disk stays and is billed. Raises NotFoundError."""
        await self._change(
            f"stop {name}", zone, lambda wire: wire.change("stop", zone, name), within
        )

    async def delete(self, zone: str, name: str, *, within: float) -> None:
        """Delete a VM and wait for it. Raises NotFoundError when it is gone already."""
        await self._change(
            f"delete {name}", zone, lambda wire: wire.change("delete", zone, name), within
        )

    # --- the wire -----------------------------------------------------------------------

    async def _change(
        self, what: str, zone: str, call: "Callable[[Wire], Operation]", within: float
    ) -> None:
        """Ask for a change and wait, at most ``within`` seconds, for its end."""

        def permitted(wire: "Wire") -> "Operation":
            self._may_change()  # after the wait for a thread and for credentials
            return call(wire)

        def look(wire: "Wire") -> "Operation":
            return wire.operation(what, zone, operation.name)

        operation = await self._call(permitted)
        try:
            async with asyncio.timeout(within):
                while not operation.done:
                    await asyncio.sleep(self.poll)
                    operation = await self._read(look)
        except TimeoutError:
            raise NoAnswerError(f"gce {what}: not done after {within:g} s") from None
        if operation.failure is not None:
            raise operation.failure

    async def _read(self, call: "Callable[[Wire], T]") -> T:
        return await read(lambda: self._call(call), self._pace)

    async def _call(self, call: "Callable[[Wire], T]") -> T:
        """Make one call in a thread."""
        if not self._project:
            raise AuthError("gce: no project is set (DUMONT_GCE_PROJECT)")
        return await asyncio.to_thread(lambda: call(self._connected()))

    def _connected(self) -> "Wire":
        """Made on first use, in a thread: the import is slow, and signing in asks the network."""
        from shared.clouds.gce_wire import Wire  # noqa: PLC0415

        with self._making:
            if self._wire is None:
                self._wire = Wire(project=self._project, url=self._url, timeout=self._timeout)
            return self._wire
