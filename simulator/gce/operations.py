"""Operations: what every change of Compute Engine answers with, and how one waits for its end."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

HOST = "https://www.googleapis.com/compute/v1"
Json = dict[str, Any]


def timestamp(at: float) -> str:
    """RFC 3339 with milliseconds, as the service writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


@dataclass(slots=True, kw_only=True)
class Operation:
    """One change under way; ``row`` is what the API shows."""

    zone: str
    row: Json
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """Its name within its zone."""
        return str(self.row["name"])


class Operations:
    """All operations, and those that a request id already stands for."""

    def __init__(self, project: str, clock: Callable[[], float]) -> None:
        self._project = project
        self._clock = clock
        self._by_name: dict[tuple[str, str], Operation] = {}
        self._by_request: dict[tuple[str, str, str], Operation] = {}

    def begin(self, kind: str, *, zone: str, target: str, target_id: str, **more: Any) -> Operation:
        """Record a change that starts now."""
        now = self._clock()
        name = f"operation-{int(now * 1000)}-{secrets.token_hex(4)}"
        base = f"{HOST}/projects/{self._project}/zones/{zone}"
        row = {
            "kind": "compute#operation",
            "id": str(secrets.randbits(62)),
            "name": name,
            "zone": base,
            "operationType": kind,
            "status": "RUNNING",
            "progress": 0,
            "targetLink": f"{base}/instances/{target}",
            "targetId": target_id,
            "user": "robot@example.iam.gserviceaccount.com",
            "insertTime": timestamp(now),
            "startTime": timestamp(now),
            "selfLink": f"{base}/operations/{name}",
        }
        operation = Operation(zone=zone, row=row | more)
        self._by_name[zone, name] = operation
        return operation

    def finish(self, operation: Operation, failure: Json | None = None) -> None:
        """It is done, with an error in it or without."""
        operation.row |= {
            "status": "DONE",
            "progress": 100,
            "endTime": timestamp(self._clock()),
            **(failure or {}),
        }
        operation.done.set()

    def happened(self, kind: str, *, zone: str, target: str, target_id: str, text: str) -> None:
        """Record something that the service did by itself."""
        operation = self.begin(
            kind, zone=zone, target=target, target_id=target_id, statusMessage=text, user="system"
        )
        self.finish(operation)

    def get(self, zone: str, name: str) -> Operation | None:
        """The operation of this name."""
        return self._by_name.get((zone, name))

    def of_zone(self, zone: str) -> list[Operation]:
        """Every operation of a zone, the oldest first."""
        return [one for one in self._by_name.values() if one.zone == zone]

    def remembered(self, request_id: str, method: str, path: str) -> Operation | None:
        """What the same request started before."""
        return self._by_request.get((request_id, method, path))

    def remember(self, operation: Operation, request_id: str, method: str, path: str) -> None:
        """A repeat of this request shall get the same operation."""
        if request_id:
            self._by_request[request_id, method, path] = operation
