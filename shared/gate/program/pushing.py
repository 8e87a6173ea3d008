"""``push``: sending a generation to a candidate, which must prove by hash what it got."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from .answers import Answer, one_line, say
from .generations import Generation, find_generation, in_use, is_damaged
from .host import Session
from .jobs import lane
from .manifests import FilesByPath, hash_file
from .peers import Peer, reach
from .programs import run_job
from .refusals import Refusal
from .rsync import RSYNC_COMMON, Progress, sort_failure, statistic
from .soundness import mark_damaged

BYTES_PER_SECOND_MIN = 6_000_000
"""A transfer is never given less time than its bytes need at this rate."""


def push(session: Session, payload: Answer) -> Answer:
    """Send a generation to the candidate and compare what arrived by hash; if final, place it."""
    begun = time.monotonic()
    attempt, final = int(payload["attempt"]), bool(payload.get("final"))
    with lane("push"), reach(session, payload["target"], payload) as peer:
        generation = find_generation(payload.get("generation"))
        if is_damaged(generation):
            raise damaged(generation)
        with in_use(generation):
            sealed = generation.seal()
            bytes_total = int(sealed["bytes"])
            at_least = bytes_total / BYTES_PER_SECOND_MIN
            deadline = begun + max(float(payload["timeout"]), at_least)
            here = Restore(session, peer, attempt, deadline)
            here.ask("restore-begin", {"bytes": bytes_total})
            bytes_copied = here.send(generation, bytes_total)
            if here.differs(generation, sealed):
                # Size and time can be right where the content is not: now every file is read.
                bytes_copied += here.send(generation, bytes_total, "--checksum")
                here.verify(generation, sealed)
            if final:
                here.ask("place", {})
    return {
        "generation": generation.id,
        "files": sealed["files"],
        "bytes": bytes_total,
        "bytes_copied": bytes_copied,
        "manifest_sha256": sealed["manifest_sha256"],
        "seconds": round(time.monotonic() - begun, 3),
    }


def damaged(generation: Generation) -> Refusal:
    return Refusal(
        "damaged",
        f"generation {generation.id} is not any more what was sealed",
        "look at the standby's disk; the next copy seals a new one",
    )


def as_sealed(generation: Generation, files: FilesByPath, path: str) -> bool:
    """Whether a file is here as it was sealed, so that what differs is the candidate's."""
    entry = files.get(path, {})
    if entry.get("type") != "file":
        return True
    return hash_file(f"{generation.tree}/{path}") == str(entry["sha256"])


class Restore(NamedTuple):
    """One pass to one candidate."""

    session: Session
    peer: Peer
    attempt: int
    deadline: float

    def run(self, argv: list[str], request: bytes = b"", progress: Progress | None = None) -> bytes:
        """Run ssh or rsync; a candidate that does not answer is asked three times."""
        for last in (False, False, True):
            finished = run_job(
                argv,
                epoch=self.session.epoch,
                deadline=self.deadline,
                request=request,
                on_output=progress,
            )
            if finished.code == 0:
                break
            refusal = sort_failure("candidate", finished)
            if last or refusal.code != "candidate-unreachable":
                code = "candidate-lost" if refusal.code == "candidate-unreachable" else refusal.code
                code = "candidate-full" if code == "disk-full" else code
                raise Refusal(code, refusal.reason, refusal.hint)
            time.sleep(0.5)
        return finished.out

    def ask(self, verb: str, request: Answer) -> Answer:
        """Ask the gate of the candidate."""
        login = [*self.peer.ssh, f"{self.peer.user}@{self.peer.address}", f"dumont {verb}"]
        body = json.dumps({"attempt": self.attempt, **request}).encode() + b"\n"
        lines = self.run(login, body).splitlines()
        try:
            answer = json.loads(lines[-1])
        except (IndexError, ValueError):
            raise Refusal("candidate-lost", f"the candidate gave no answer to {verb}") from None
        if "ok" not in answer:
            error = answer.get("error", {})
            told = one_line(f"{error.get('code')}: {error.get('reason')}".encode())
            code = "candidate-full" if error.get("code") == "disk-full" else "candidate-refused"
            raise Refusal(code, f"the candidate refused {verb}: {told}")
        ok: Answer = answer["ok"]
        return ok

    def send(self, generation: Generation, bytes_total: int, *options: str) -> int:
        """Bring the candidate's staging to a generation; how many bytes that took on the wire."""
        argv = ["rsync", *RSYNC_COMMON, *options, "--delete", "--stats", "--info=progress2"]
        argv += ["--no-inc-recursive", "--no-human-readable", f"--rsh={self.peer.rsync_shell}"]
        argv += [f"{generation.tree}/", f"{self.peer.rsync_name}:/a{self.attempt}"]
        progress = Progress(bytes_total)
        output = self.run(argv, progress=progress)
        say("progress", {"bytes_done": bytes_total, "bytes_total": bytes_total})
        return statistic(output, b"Total bytes sent")

    def differs(self, generation: Generation, sealed: dict[str, Any]) -> bool:
        """Whether what arrived is not the generation, by hash. Raises Refusal ``damaged``."""
        if self.ask("manifest", {})["manifest_sha256"] == sealed["manifest_sha256"]:
            return False
        here = generation.files()
        there = self.ask("manifest", {"full": True}).get("files", {})
        wrong = [path for path in here if there.get(path) != here[path]]
        if rotten := [path for path in wrong if not as_sealed(generation, here, path)]:
            mark_damaged(generation, rotten)
            raise damaged(generation)
        return True

    def verify(self, generation: Generation, sealed: dict[str, Any]) -> None:
        """Raises Refusal ``verify-failed`` unless what arrived is the generation, by hash."""
        if not self.differs(generation, sealed):
            return
        there, here = self.ask("manifest", {"full": True}).get("files", {}), generation.files()
        wrong = sorted(p for p in {*there, *here} if there.get(p) != here.get(p))
        named = ", ".join(repr(path) for path in wrong[:3])
        raise Refusal(
            "verify-failed", f"{len(wrong)} files on the candidate are not as sealed: {named}"
        )
