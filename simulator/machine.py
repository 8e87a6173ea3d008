"""A machine that runs: its disk under the simulator's directory and its own namespaces.

Booting starts ``init.py``; halting takes the machine's PID 1 away, which ends everything in it at
once and without notice. The disk stays until the machine is removed.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from simulator import image

_BOOT_DEADLINE = 20.0
_INIT = Path(__file__).with_name("init.py")

NEEDS_ROOT = (
    "simulated machines are namespaces of their own and need root with CAP_SYS_ADMIN: run the "
    "simulator as root, or in a container with --cap-add SYS_ADMIN --security-opt "
    "apparmor=unconfined"
)


class BootError(Exception):
    """The machine did not come up; the text says what to do when we know it."""


class Machine:
    """One simulated computer. Every method may be called in any state."""

    def __init__(self, name: str, directory: Path, ended: Callable[[], None]) -> None:
        """``ended`` is called when the machine stops by itself, not when it is halted."""
        self.name = name
        self.root = directory / "root"
        self._directory = directory
        self._ended = ended
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._pid: int | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it has power."""
        return self._process is not None

    @property
    def console(self) -> Path:
        """What sshd and PID 1 said since the machine was made."""
        return self._directory / "console.log"

    async def build(self, *, root_login: str) -> None:
        """Make its disk; ``root_login`` is sshd's ``PermitRootLogin``."""
        await asyncio.to_thread(image.build, self.root, hostname=self.name, root_login=root_login)

    async def boot(
        self,
        *,
        address: str,
        port: int,
        environment: dict[str, str],
        script: str | None,
        sshd: bool = True,
    ) -> None:
        """Power it on: sshd at ``address:port``, and ``script`` (a path inside) run as root.

        Raises BootError.
        """
        async with self._lock:
            if self._process is not None:
                return
            image.listen(self.root, address, port)
            plan = {
                "root": str(self.root),
                "hostname": self.name,
                "binds": image.binds(),
                "environment": {"PATH": image.PATH, "HOME": "/root", "USER": "root"} | environment,
                "script": script,
                "sshd": sshd,
            }
            (self._directory / "plan.json").write_text(json.dumps(plan))
            await self._power_on()

    async def _power_on(self) -> None:
        with self.console.open("ab") as console:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_INIT), str(self._directory / "plan.json")),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=console,
            )
        try:
            async with asyncio.timeout(_BOOT_DEADLINE):
                await self._hear_ready(self._process)
        except BaseException:
            await self._power_off()
            raise
        self._watch = asyncio.create_task(self._notice_end(self._process))

    async def _hear_ready(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        ready = False
        while line := (await process.stdout.readline()).decode().strip():
            word, _, text = line.partition(" ")
            # Two processes say these, so either may come first.
            if word == "pid":
                self._pid = int(text)
            elif word == "ready":
                ready = True
            else:
                hint = f": {NEEDS_ROOT}" if "not permitted" in text else ""
                raise BootError(f"machine {self.name} did not boot ({text}){hint}")
            if ready and self._pid is not None:
                return
        raise BootError(f"machine {self.name} ended while it booted; see {self.console}")

    async def _notice_end(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        self._process = self._pid = None
        self._ended()

    async def halt(self) -> None:
        """Take its power away. When this returns nothing of it runs any more."""
        async with self._lock:
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
            await self._power_off()

    async def _power_off(self) -> None:
        process, self._process, self._pid = self._process, None, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()

    def kill_sshd(self) -> int:
        """Kill sshd and every session of it; the rest runs on. How many processes that were."""
        return self._signal_sshd(signal.SIGKILL)

    def silence(self) -> None:
        """Nobody hears from it: sshd and its sessions stand still, the rest runs on."""
        self._signal_sshd(signal.SIGSTOP)

    def speak(self) -> None:
        """It answers again, where it was when it fell silent."""
        self._signal_sshd(signal.SIGCONT)

    def _signal_sshd(self, number: signal.Signals) -> int:
        found = [pid for pid in self._processes() if _command(pid).startswith("sshd")]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(found)

    def _processes(self) -> list[int]:
        if self._pid is None:
            return []
        own = _pid_namespace(self._pid)
        every = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [pid for pid in every if own is not None and _pid_namespace(pid) == own]

    async def remove(self) -> None:
        """Halt it and delete its disk."""
        await self.halt()
        await asyncio.to_thread(self._delete)

    def _delete(self) -> None:
        if str(self.root) in Path("/proc/self/mountinfo").read_text():
            raise RuntimeError(f"{self.root} still has mounts: not deleting through them")
        shutil.rmtree(self._directory, ignore_errors=True)


def _pid_namespace(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
