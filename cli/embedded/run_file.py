"""``run.json``: what of a stack runs now, for ``up``, ``down``, the client verbs and tests."""

import json
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cli.embedded.files import write_private
from cli.embedded.processes import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One child of the supervisor as it is now. ``process`` is None between two lives.

    ``stop_signal`` is the number of the signal that ends it cleanly.
    """

    service: str
    process: Process | None
    stop_signal: int = signal.SIGTERM
    ready: bool = False
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything about a stack that is true now. ``facts`` holds addresses, never a secret."""

    supervisor: Process
    children: Mapping[str, Running] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)

    def processes(self) -> list[Process]:
        """Every process of the stack that is written down, the supervisor first."""
        return [self.supervisor, *(c.process for c in self.children.values() if c.process)]

    def pids(self) -> dict[str, list[int]]:
        """The live process numbers by service, in the order of their replicas."""
        pids: dict[str, list[int]] = {}
        for child in self.children.values():
            if child.process:
                pids.setdefault(child.service, []).append(child.process.pid)
        return pids


def write(path: Path, run: Run) -> None:
    """Replace the file atomically. Raises OSError."""
    document = {**run.facts, "pids": run.pids(), **asdict(run)}
    write_private(path, json.dumps(document, indent=1) + "\n")


def read(path: Path) -> Run | None:
    """What the file says, None when there is none. Raises ValueError when it is not ours."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    try:
        children = {
            name: Running(**{**child, "process": _process(child["process"])})
            for name, child in document["children"].items()
        }
        supervisor = Process(**document["supervisor"])
        return Run(supervisor=supervisor, children=children, facts=document["facts"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a run file of this version: {error}") from None


def _process(document: dict[str, object] | None) -> Process | None:
    return None if document is None else Process(**document)  # type: ignore[arg-type]
