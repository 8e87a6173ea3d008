"""The simulated clouds as a running program, with what tests ask of its control port."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """Addresses and keys of running clouds. ``control`` speaks to the control port."""

    vast_url: str
    gce_url: str
    control_url: str
    keys: dict[str, str]
    gce_ssh_port: int
    directory: Path
    pid: int
    control: httpx.Client

    @property
    def vast_key(self) -> str:
        """The key that can spend."""
        return self.keys["vast"]

    @property
    def project(self) -> str:
        """The one Compute Engine project."""
        return self.keys["gce_project"]

    def vast(self, key: str | None = None) -> httpx.Client:
        """A bare HTTP client of the GPU market; close it."""
        headers = {"Authorization": f"Bearer {key or self.vast_key}"}
        return httpx.Client(base_url=self.vast_url, headers=headers, timeout=30)

    def ledger(self) -> dict[str, Any]:
        """What was billed so far."""
        return self._json(self.control.get("/ledger"))

    def machines(self) -> list[dict[str, Any]]:
        """The machines that are not destroyed."""
        machines: list[dict[str, Any]] = self._json(self.control.get("/machines"))["machines"]
        return machines

    def machine(self, id: str | int) -> dict[str, Any]:
        """One machine, by id or label."""
        return self._json(self.control.get(f"/machines/{id}"))

    def happen(self, id: str | int, happening: str, **details: Any) -> dict[str, Any]:
        """outbid, lose, exit, resume, reboot, kill-sshd, preempt or truncate."""
        return self._json(self.control.post(f"/machines/{id}/{happening}", json=details))

    def fault(self, name: str, **details: Any) -> None:
        """Arm a fault."""
        self._json(self.control.post("/faults", json={"name": name, **details}))

    def tree(self, id: str | int, path: str) -> dict[str, dict[str, Any]]:
        """Every file under a directory of a machine, with its hash."""
        answer = self._json(self.control.get(f"/machines/{id}/tree", params={"path": path}))
        files: dict[str, dict[str, Any]] = answer["files"]
        return files

    def write(self, id: str | int, path: str, content: bytes) -> None:
        """Make or replace a file on a machine."""
        self._json(self.control.put(f"/machines/{id}/file", params={"path": path}, content=content))

    def read(self, id: str | int, path: str) -> bytes:
        """A file of a machine."""
        answer = self.control.get(f"/machines/{id}/file", params={"path": path})
        return answer.raise_for_status().content

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.is_success, f"{answer.request.method} {answer.url}: {answer.text}"
        body: dict[str, Any] = answer.json()
        return body


@contextmanager
def simulator(directory: Path, **options: Any) -> Iterator[Simulator]:
    """Run ``python -m simulator`` in ``directory``; ``options`` are its own, with underscores.

    Boots take 0.3 s unless ``boot_seconds`` says otherwise.
    """
    arguments = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in ({"boot_seconds": 0.3, "gce_ssh_port": 0} | options).items()
    ]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "simulator.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "simulator", "--dir", str(directory), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        line = _first_line(process, directory / "simulator.log")
        with httpx.Client(base_url=line["control_url"], timeout=60) as control:
            yield Simulator(
                vast_url=line["vast_url"],
                gce_url=line["gce_url"],
                control_url=line["control_url"],
                keys=line["keys"],
                gce_ssh_port=line["gce_ssh_port"],
                directory=directory,
                pid=process.pid,
                control=control,
            )
    finally:
        _end(process)


def _first_line(process: "subprocess.Popen[str]", log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, f"the simulator did not start: {log.read_text()}"
    line: dict[str, Any] = json.loads(text)
    return line


def _end(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
