"""The entries for machines without a place: each owes one machine its end."""

from services.recovery.domain.state import Condemned, End
from shared.machines import Host, MachineId, Role


def condemn(
    host: Host,
    end: End,
    reason: str,
    *,
    orphan: bool = False,
    keep: bool = False,
    role: Role = Role.GPU,
) -> Condemned:
    """The entry that owes ``host`` its end."""
    return Condemned(
        machine=host.id,
        provider=host.provider,
        provider_id=host.provider_id,
        end=end,
        orphan=orphan,
        reason=reason,
        keep=keep,
        role=role,
    )


def abandoned(label: MachineId, provider: str, reason: str) -> Condemned:
    """The entry for whatever carries, or may still come to carry, this label."""
    return Condemned(
        machine=label,
        provider=provider,
        provider_id="",
        end=End.DESTROY,
        orphan=True,
        reason=reason,
    )
