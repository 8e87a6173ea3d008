"""Every name on the bus: one function or constant each."""

from shared.machines import WorkspaceName

STREAM_EVENTS = "DUMONT_EVENTS"
STREAM_INBOX = "DUMONT_INBOX"
STREAM_DEADLETTERS = "DUMONT_DEADLETTERS"
BUCKET_STATE = "DUMONT_STATE"

ALL_EVENTS = "dumont.events.>"
ALL_INBOX = "dumont.inbox.>"
ALL_DEADLETTERS = "dumont.deadletter.>"
STATE_CHANGED = "dumont.state.changed"
"""Where recovery says that it has put something in the bucket: a wake-up without content."""


def event(workspace: WorkspaceName, type_: str) -> str:
    """Where the relay publishes what is in the log."""
    return f"dumont.events.{workspace}.{type_}"


def inbox(service: str, workspace: WorkspaceName, type_: str) -> str:
    """Where a service puts what it saw or was asked; each may publish under its own name only."""
    return f"dumont.inbox.{service}.{workspace}.{type_}"


def deadletter(service: str) -> str:
    """Where ``service`` keeps aside what it could not decode."""
    return f"dumont.deadletter.{service}"


def telemetry(service: str, workspace: WorkspaceName, kind: str) -> str:
    """Samples: on core NATS only, never recorded."""
    return f"dumont.telemetry.{service}.{workspace}.{kind}"


def pulse(service: str) -> str:
    """Where ``service`` says that it lives, whether it acts, and what it waits for."""
    return f"dumont.telemetry.{service}.pulse"


ALL_PULSES = pulse("*")


def certificates(service: str) -> str:
    """Where ``service`` asks recovery for a certificate (request and reply)."""
    return f"dumont.certificates.{service}"
