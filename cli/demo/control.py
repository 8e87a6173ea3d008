"""The simulator's control port: machines to lose, faults to order, trees and bills to read."""

from typing import Any

import httpx

from cli.demo import judge
from cli.errors import CliError

Json = dict[str, Any]
TREE_SECONDS = 120.0


class Control:
    """``async with Control(url) as control``. Raises CliError when nobody answers."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=TREE_SECONDS, trust_env=False)

    async def __aenter__(self) -> "Control":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def machines(self) -> list[Json]:
        found = (await self._call("GET", "/machines")).json()
        listed = found["machines"] if isinstance(found, dict) else found
        return list(listed)

    async def machine(self, label: str) -> Json:
        """The newest machine with this label."""
        found = [m for m in await self.machines() if m["label"] == label]
        if not found:
            raise CliError(f"the simulator has no machine labelled {label}")
        return found[-1]

    async def ledger(self) -> Json:
        ledger: Json = (await self._call("GET", "/ledger")).json()
        return ledger

    async def order_fault(self, name: str, **arguments: object) -> None:
        await self._call("POST", "/faults", json={"name": name, **arguments})

    async def withdraw_faults(self, name: str) -> None:
        await self._call("DELETE", "/faults", params={"name": name})

    async def act(self, machine: str, verb: str, **arguments: object) -> None:
        """outbid, lose, resume, kill-sshd, preempt, reboot, silence, speak."""
        await self._call("POST", f"/machines/{machine}/{verb}", json=arguments)

    async def tree(self, machine: str, path: str) -> dict[str, judge.Entry]:
        answer = await self._call("GET", f"/machines/{machine}/tree", params={"path": path})
        return judge.tree(answer.json()["files"])

    async def read(self, machine: str, path: str) -> bytes:
        answer = await self._call("GET", f"/machines/{machine}/file", params={"path": path})
        return answer.content

    async def delete(self, machine: str, path: str) -> None:
        await self._call("DELETE", f"/machines/{machine}/file", params={"path": path})

    async def truncate(self, machine: str, path: str, size: int) -> None:
        await self._call(
            "POST", f"/machines/{machine}/truncate", json={"path": path, "bytes": size}
        )

    async def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise CliError(
                f"the simulator's control port does not answer: {reason}",
                "against a remote stack give it with --control-url",
            ) from None
        if answer.is_error:
            raise CliError(f"the simulator refused {method} {path}: {answer.text[:300]}")
        return answer
