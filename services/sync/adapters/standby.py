"""``DataPlane`` through the standby's gate: the bytes go between the hosts, only orders go here."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from services.sync.ports import (
    CandidateLostError,
    DataPlaneError,
    OutdatedError,
    Progress,
    Pushed,
    Sealed,
    ShrunkError,
)
from shared import ssh
from shared.assignments import Assignment
from shared.certificates import CertificateRole
from shared.credentials import Credentials, CredentialsError
from shared.gate import Verb
from shared.machines import Host, MachineId, WorkspaceName

MARGIN_SECONDS = 60.0
"""What a job may take beyond its transfer: hashing, flushing, the copy for a promotion."""

KEYPAIR_SECONDS = 10.0
FOLLOW_SECONDS = 86_400.0
"""A watch is begun anew once a day, and under each new certificate."""

CERTIFICATE_OVER = "certificate-over"
SPENT_SECONDS = 1.0
"""A certificate that was over sooner than this was no use: the next one would be none either."""

_CANDIDATE_LOST = frozenset(
    {"candidate-lost", "candidate-full", "candidate-refused", "candidate-identity"}
)

_SEALED = TypeAdapter(Sealed)
_PUSHED = TypeAdapter(Pushed)
_PROGRESS = TypeAdapter(Progress)

T = TypeVar("T")
_KeyOf = tuple[WorkspaceName, MachineId, int]


class StandbyDataPlane:
    """Implements ``DataPlane`` of the sync service's ports."""

    def __init__(
        self, credentials: Credentials, *, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._credentials = credentials
        self._steady = steady
        self._public_keys: dict[_KeyOf, str] = {}

    async def pull(self, assignment: Assignment) -> Sealed:
        """Copy the primary's tree and seal what changed."""
        primary = assignment.primary
        assert primary is not None
        timeout = assignment.policy.sync_timeout
        request = {
            "source": _peer(primary, assignment.path),
            "accept_shrink": assignment.accept_shrink,
            "excludes": assignment.policy.sync_excludes,
            "bytes_per_second": int(assignment.policy.sync_rate_max * 1e6),
        }

        async def attempt(left: float) -> dict[str, Any]:
            return await self._with_key(
                assignment, Verb.PULL, CertificateRole.READ, request, timeout=left
            )

        return _sealed(await self._under_each_certificate(attempt, timeout))

    async def follow(self, assignment: Assignment, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` when the watch begins and whenever something changes there."""
        primary = assignment.primary
        assert primary is not None
        request = {
            "source": _peer(primary, assignment.path),
            "excludes": assignment.policy.sync_excludes,
        }

        async def attempt(left: float) -> dict[str, Any]:
            return await self._with_key(
                assignment,
                Verb.FOLLOW,
                CertificateRole.READ,
                request,
                timeout=left,
                on_line=lambda _: on_change(),
            )

        await self._under_each_certificate(attempt, FOLLOW_SECONDS)

    async def seal(self, assignment: Assignment) -> Sealed:
        """Seal the tree that people work on."""
        timeout = assignment.policy.sync_timeout
        request = {
            "timeout": timeout,
            "accept_shrink": assignment.accept_shrink,
            "excludes": assignment.policy.sync_excludes,
        }
        return _sealed(await self._ask(assignment, Verb.SEAL, request, timeout=timeout))

    async def push(
        self,
        assignment: Assignment,
        *,
        final: bool,
        bytes_total: int,
        on_progress: Callable[[Progress], None],
    ) -> Pushed:
        """Bring the newest generation to the candidate, and compare it there by hash."""
        candidate = assignment.candidate
        assert candidate is not None

        def on_line(line: dict[str, Any]) -> None:
            on_progress(_read(_PROGRESS, line))

        timeout = assignment.policy.restore_deadline(bytes_total)
        request = {
            "target": _peer(candidate, assignment.path),
            "attempt": assignment.attempt,
            "round": assignment.round,
            "final": final,
            "generation": None,
        }

        async def attempt(left: float) -> dict[str, Any]:
            return await self._with_key(
                assignment, Verb.PUSH, CertificateRole.WRITE, request, timeout=left, on_line=on_line
            )

        return _read(_PUSHED, await self._under_each_certificate(attempt, timeout))

    async def _under_each_certificate(
        self, attempt: Callable[[float], Awaitable[dict[str, Any]]], timeout: float
    ) -> dict[str, Any]:
        """Let a transfer that outlives its certificate go on under the next one.

        ``attempt`` is given the seconds that are left of ``timeout``.
        """
        deadline = self._steady() + timeout
        while True:
            began = self._steady()
            try:
                return await attempt(deadline - began)
            except DataPlaneError as error:
                now = self._steady()
                spent = error.code == CERTIFICATE_OVER and now - began >= SPENT_SECONDS
                if not spent or now >= deadline:
                    raise

    async def _with_key(
        self,
        assignment: Assignment,
        verb: Verb,
        role: CertificateRole,
        request: Mapping[str, Any],
        *,
        timeout: float,
        on_line: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Have the standby reach another host, with its own key of this epoch certified for it."""
        standby = assignment.standby
        assert standby is not None
        slot = (assignment.workspace, standby.id, assignment.epoch)
        if slot not in self._public_keys:
            made = await self._ask(assignment, Verb.KEYPAIR, {}, timeout=KEYPAIR_SECONDS)
            self._public_keys[slot] = str(made.get("public_key"))
            self._forget_older(assignment)
        certificate = await self._certify(assignment, role, self._public_keys[slot])
        full = {
            **request,
            "timeout": timeout,
            "host_ca": assignment.host_ca,
            "certificate": certificate,
        }
        try:
            return await self._ask(assignment, verb, full, timeout=timeout, on_line=on_line)
        except DataPlaneError as error:
            if error.code in {"no-key", "source-refused-us", "candidate-refused-us"}:
                # The standby may have been made anew under its old name, with another key.
                self._public_keys.pop(slot, None)
            raise

    def _forget_older(self, assignment: Assignment) -> None:
        for old in list(self._public_keys):
            if old[0] == assignment.workspace and old[2] < assignment.epoch:
                del self._public_keys[old]

    async def _certify(self, assignment: Assignment, role: CertificateRole, key: str) -> str:
        try:
            return await self._credentials.certify(
                assignment.workspace, assignment.epoch, role, key
            )
        except CredentialsError as error:
            raise _without_certificate(error) from error

    async def _ask(
        self,
        assignment: Assignment,
        verb: Verb,
        request: Mapping[str, Any],
        *,
        timeout: float,
        on_line: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        standby = assignment.standby
        assert standby is not None
        try:
            identity = await self._credentials.identity(
                assignment.workspace, assignment.epoch, CertificateRole.WRITE
            )
            return await ssh.call_gate(
                standby,
                workspace=assignment.workspace,
                host_ca=assignment.host_ca,
                identity=identity,
                verb=verb,
                payload=request,
                timeout=timeout + MARGIN_SECONDS,
                on_progress=on_line,
            )
        except CredentialsError as error:
            raise _without_certificate(error) from error
        except ssh.SshError as error:
            raise _sorted(error) from error


def _peer(host: Host, path: str) -> dict[str, Any]:
    return {"address": host.address, "port": host.port, "user": host.user, "path": path}


def _sealed(answer: Mapping[str, Any]) -> Sealed:
    """Raises ShrunkError when the gate held the copy."""
    held = answer.get("held")
    if isinstance(held, dict):
        fields = ("files_before", "files_now", "bytes_before", "bytes_now")
        raise ShrunkError(
            str(held.get("reason")), **{field: int(held.get(field, 0)) for field in fields}
        )
    return _read(_SEALED, answer)


def _read(adapter: TypeAdapter[T], answer: Mapping[str, Any]) -> T:
    try:
        return adapter.validate_python(answer)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise DataPlaneError("unreadable", f"the standby's answer lacks {places}") from None


def _without_certificate(error: CredentialsError) -> DataPlaneError:
    return DataPlaneError("no-certificate", str(error), "see that recovery runs")


def _sorted(error: ssh.SshError) -> DataPlaneError:
    match error:
        case ssh.GateError(code="stale-epoch"):
            return OutdatedError(error.code, error.reason)
        case ssh.GateError(code=code) if code in _CANDIDATE_LOST:
            return CandidateLostError(code, error.reason, error.hint)
        case ssh.GateError():
            return DataPlaneError(error.code, error.reason, error.hint)
        case ssh.HostSilentError():
            return DataPlaneError("standby-silent", f"the standby does not answer: {error}")
        case ssh.HostRefusedUsError():
            return DataPlaneError("standby-refused-us", f"the standby refused us: {error}")
        case ssh.HostIdentityError():
            return DataPlaneError("standby-identity", f"not the workspace's standby: {error}")
        case _:
            return DataPlaneError("unknown", f"the session with the standby broke: {error}")
