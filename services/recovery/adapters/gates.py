"""Recovery's own way through the gates: certificates straight from the authority beside it."""

from collections.abc import Mapping
from typing import Any

from services.recovery.adapters.authority import Authority
from shared import ssh
from shared.certificates import CertificateRole
from shared.machines import Host, WorkspaceName


class Gates:
    """Asks the gate of a host, with a certificate made for this one call."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def ask(
        self,
        host: Host,
        *,
        workspace: WorkspaceName,
        epoch: int,
        role: CertificateRole,
        verb: str,
        payload: Mapping[str, Any],
        timeout: float,
    ) -> dict[str, Any]:
        """The gate's answer, within ``timeout`` seconds.

        Raises the kinds of shared.ssh.SshError, and AuthorityError when recovery cannot certify
        itself.
        """
        return await ssh.call_gate(
            host,
            workspace=workspace,
            host_ca=self._authority.host_ca_public(workspace),
            identity=self._authority.identity(workspace, epoch, role),
            verb=verb,
            payload=payload,
            timeout=timeout,
        )
