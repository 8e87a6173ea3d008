"""The host itself: does TCP connect, and does its gate answer under a probe certificate?"""

import json
from collections.abc import Mapping

from services.health.domain.detector import Ssh, Subject, Tcp
from services.health.ports import Reached
from shared.certificates import CertificateRole
from shared.credentials import Credentials, CredentialsError
from shared.ssh import (
    GateDiedError,
    GateError,
    HostIdentityError,
    HostRefusedUsError,
    HostSilentError,
    call_gate,
    tcp_connects,
)

_HEARTBEAT = ("load", "free_bytes", "path_present", "gpu", "generation", "epoch", "time")
_HEARTBEAT_VALUE_MAX = 1000


class SshReach:
    """Reach with certificates that are asked of recovery."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def look(self, subject: Subject, *, host_ca: str, timeout: float) -> Reached:
        host = subject.host
        try:
            if not await tcp_connects(host.address, host.port, timeout):
                text = f"{host.address} port {host.port} does not accept connections"
                return Reached(Tcp.SILENT, Ssh.NOT_TRIED, text)
        except HostRefusedUsError as error:
            return Reached(Tcp.UNKNOWN, Ssh.NOT_TRIED, str(error))
        return await self._ask_gate(subject, host_ca=host_ca, timeout=timeout)

    async def _ask_gate(self, subject: Subject, *, host_ca: str, timeout: float) -> Reached:
        try:
            identity = await self._credentials.identity(
                subject.workspace, subject.epoch, CertificateRole.PROBE
            )
            answer = await call_gate(
                subject.host,
                workspace=subject.workspace,
                host_ca=host_ca,
                identity=identity,
                verb="look",
                payload={},
                timeout=timeout,
            )
        except CredentialsError as error:
            return Reached(Tcp.CONNECTS, Ssh.NOT_TRIED, str(error))
        except HostSilentError as error:
            return Reached(Tcp.CONNECTS, Ssh.SILENT, str(error))
        except GateError as error:  # a refusal is an answer: it lives
            return Reached(Tcp.CONNECTS, Ssh.ANSWERS, f"its gate refuses: {error}")
        except (HostRefusedUsError, HostIdentityError, GateDiedError) as error:
            return Reached(Tcp.CONNECTS, Ssh.UNKNOWN, str(error))
        return Reached(Tcp.CONNECTS, Ssh.ANSWERS, heartbeat=_bounded(answer))


def _bounded(answer: Mapping[str, object]) -> dict[str, object]:
    """The known parts of a heartbeat: a host is not trusted to be brief."""
    return {
        key: answer[key]
        for key in _HEARTBEAT
        if key in answer and len(json.dumps(answer[key])) <= _HEARTBEAT_VALUE_MAX
    }
