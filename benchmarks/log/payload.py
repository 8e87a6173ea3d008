"""What both sides append: one fact of about 250 bytes as JSON, with the same things around it."""

from shared.clock import new_id, now
from shared.envelope import Envelope
from shared.events.health import HealthFailed
from shared.machines import MachineId, Role, WorkspaceName


def fact(number: int, workspace: WorkspaceName) -> Envelope:
    """A failed check, as health says it."""
    return Envelope(
        id=new_id(),
        source="health",
        time=now(),
        event=HealthFailed(
            workspace=workspace,
            epoch=1,
            machine=MachineId(f"dumont-{workspace}-e1-a1"),
            role=Role.GPU,
            failures=number,
            threshold=3,
            reason="SSH does not answer: connection refused",
            evidence=("provider: vast says running", "tcp 203.0.113.7:22 connected in 41 ms"),
        ),
        correlation=new_id(),
        causation=new_id(),
    )
