"""Faults that wait for their moment: what the control port ordered and who has had it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KNOWN: Mapping[str, str] = {
    "ssh-never-comes": "the next Vast creates run without an sshd",
    "offer-vanishes": "the next Vast creates answer no_such_ask (status: 404, 410 or 400)",
    "create-answer-lost": "the next creates (provider) happen and the connection is cut unanswered",
    "boot-delay": "boots (of a provider, or all) take so many seconds longer",
    "boot-fails": "the next Vast creates end in a container error (status_msg)",
    "outbid-at-boot": "the next Vast creates are outbid the moment they run (form: A or B)",
    "http-error": "provider, method, path_contains, status, body, content_type, headers",
    "rate-limit": "Vast answers 429 (form: text, json or quota)",
    "no-answer": "requests (provider, method, path_contains) are cut unanswered and not done",
    "slow": "requests wait so many seconds first (provider, method, path_contains)",
    "destroy-lies": "the next destroys (provider) answer success and the machine stays",
    "list-lag": "lists leave out machines younger than so many seconds",
    "list-empty": "the next lists are empty",
    "start-queued": "the next Vast starts are queued: resources_unavailable",
    "operation-error": "the next Compute Engine operations fail (operation, code, zone)",
    "wait-returns-running": "the next operation waits return before the operation is done",
}

OF_VAST = frozenset({"create-answer-lost", "destroy-lies"})
"""Faults that mean Vast when no provider is given."""

ONE_SHOT = frozenset(KNOWN) - {"boot-delay", "no-answer", "slow", "list-lag", "http-error"}
"""Faults that happen once when no count is given; the others stay until they are deleted."""


class UnknownFaultError(Exception):
    """No fault has this name."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """``count`` is how many more times it happens; None is until deleted."""

    id: int
    name: str
    count: int | None
    happened: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What the control port shows."""
        return {
            **self.details,
            "id": self.id,
            "name": self.name,
            "count": self.count,
            "happened": self.happened,
        }

    def seconds(self) -> float:
        """The fault's ``seconds``, 0 when it has none."""
        return float(self.details.get("seconds", 0.0))


class Faults:
    """The faults that are armed, the oldest first."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []
        self._last_id = 0

    def arm(self, name: str, count: int | None, details: Mapping[str, Any]) -> Fault:
        """Arm a fault. Raises UnknownFaultError with the names there are."""
        if name not in KNOWN:
            raise UnknownFaultError(f"no fault {name!r}; there are: {', '.join(sorted(KNOWN))}")
        if count is None and name in ONE_SHOT:
            count = 1
        if name in OF_VAST:
            details = {"provider": "vast", **details}
        self._last_id += 1
        fault = Fault(id=self._last_id, name=name, count=count, details=dict(details))
        self._armed.append(fault)
        return fault

    def armed(self) -> list[Fault]:
        """Those that can still happen."""
        return list(self._armed)

    def disarm(self, name: str | None) -> int:
        """Forget the faults of this name, or all; how many there were."""
        before = len(self._armed)
        self._armed = [fault for fault in self._armed if name is not None and fault.name != name]
        return before - len(self._armed)

    def peek(self, name: str, **circumstances: str) -> Fault | None:
        """The first armed fault of this name that fits, without using it up."""
        for fault in self._armed:
            if fault.name == name and _fits(fault, circumstances):
                return fault
        return None

    def take(self, name: str, **circumstances: str) -> Fault | None:
        """The first armed fault of this name that fits; one of its count is used up."""
        fault = self.peek(name, **circumstances)
        if fault is None:
            return None
        fault.happened += 1
        if fault.count is not None:
            fault.count -= 1
            if fault.count <= 0:
                self._armed.remove(fault)
        return fault


def _fits(fault: Fault, circumstances: Mapping[str, str]) -> bool:
    """What the fault leaves open fits everything; ``path_contains`` looks into ``path``."""
    for key, value in circumstances.items():
        if key == "path":
            if str(fault.details.get("path_contains", "")) not in value:
                return False
        elif str(fault.details.get(key, value)).upper() != value.upper():
            return False
    return True
