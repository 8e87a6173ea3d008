"""The people of the demo: a client that writes through the endpoint, and a training job.

Both are ordinary SSH sessions to the one address of the workspace, strict about its identity.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

from cli.endpoint import Access
from cli.errors import CliError

COUNTER = "counter.log"
WRITE_EVERY = 0.05
RECONNECT_EVERY = 0.1
ANSWER_SECONDS = 3.0
HANG_UP_SECONDS = 0.3

# Each number is on the disk before it is acknowledged: "safe" must mean safe. The host's name
# for itself comes first, so that the client knows who serves it.
_SERVE = r"""
cd PATH || exit 9
if [ -L PATH ]; then echo host standby; else echo host gpu; fi
while read -r n; do
  printf '%s\n' "$n" >> counter.log && sync counter.log && echo "ok $n" || exit 8
done
"""

# A checkpoint is written beside its name and moved there, as careful training code does.
_TRAIN = r"""
cd PATH || exit 9
nohup sh -c '
step=0
while [ $step -lt 100000 ]; do
  step=$((step + 1))
  echo "step $step loss 0.$step" >> train.log
  if [ $((step % 20)) -eq 0 ]; then
    head -c 1000000 /dev/urandom > checkpoint.tmp && mv checkpoint.tmp "checkpoint-$((step % 3)).pt"
  fi
  sleep 0.1
done' > /dev/null 2>&1 &
"""


@dataclass(frozen=True, slots=True)
class Written:
    """An acknowledged write: ``at`` on the steady clock, ``host`` is ``gpu`` or ``standby``."""

    number: int
    at: float
    host: str


class Writer:
    """Writes numbers through the endpoint all the time and remembers what was acknowledged.

    ``slower`` stretches its pauses and its patience. ``warnings`` collects what ssh said about
    the host's identity: it must stay empty.
    """

    def __init__(self, access: Access, path: str, *, slower: float = 1.0) -> None:
        self._access = access
        self._slower = slower
        self._command = _SERVE.replace("PATH", path)
        self._next = 1
        self.written: list[Written] = []
        self.warnings: list[str] = []
        self.host = ""

    async def run(self) -> None:
        """Until cancelled; connects again whenever the connection is closed."""
        while True:
            await self._session()
            await asyncio.sleep(RECONNECT_EVERY)

    async def first_on(self, host: str, after: float) -> Written:
        """The first acknowledged write on ``host`` later than ``after`` (steady clock)."""
        while True:
            found = [w for w in self.written if w.at > after and w.host == host]
            if found:
                return found[0]
            await asyncio.sleep(0.02)

    async def _session(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._access.ssh_argv(self._command, batch=True),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin and process.stdout and process.stderr
        complaints = asyncio.create_task(process.stderr.read())
        try:
            await self._write(process.stdin, process.stdout)
        except (ConnectionError, TimeoutError, _SessionOverError):
            pass
        finally:
            await _ended(process)
            said = (await complaints).decode(errors="replace")
            if "WARNING" in said or "verification failed" in said:
                self.warnings.append(said.strip())

    async def _write(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        patience = ANSWER_SECONDS * self._slower
        self.host = (await _line(stdout, "host ", patience)) or ""
        while True:
            number = self._next
            self._next += 1
            stdin.write(f"{number}\n".encode())
            await stdin.drain()
            await _line(stdout, f"ok {number}", patience)
            self.written.append(Written(number, time.monotonic(), self.host))
            await asyncio.sleep(WRITE_EVERY * self._slower)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Let ssh go by closing its input; a session that hangs is killed."""
    assert process.stdin
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), HANG_UP_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):  # it went at the last moment
            process.kill()
        await process.wait()


class _SessionOverError(Exception):
    """The other end closed, or said something else than expected."""


async def _line(stdout: asyncio.StreamReader, start: str, patience: float) -> str:
    async with asyncio.timeout(patience):
        line = (await stdout.readline()).decode(errors="replace").strip()
    if not line.startswith(start.strip()):
        raise _SessionOverError
    return line.removeprefix(start)


async def start_training(access: Access, path: str) -> None:
    """Start the job and leave: it goes on by itself, as under nohup. Raises CliError."""
    process = await asyncio.create_subprocess_exec(
        *access.ssh_argv(_TRAIN.replace("PATH", path), batch=True),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    if process.returncode != 0:
        raise CliError(f"the training job did not start: {stderr.decode(errors='replace').strip()}")
