"""The names of machines: each label is the idempotency key of one rental."""

from services.recovery.domain.state import State
from shared.machines import MachineId, WorkspaceName


def gpu_label(installation: str, state: State) -> MachineId:
    """The label of this attempt's machine: its idempotency key in the provider's account."""
    name = f"{installation}-{state.workspace}-e{state.epoch}-a{state.attempt.number}"
    return MachineId(name)


def standby_label(installation: str, state: State) -> MachineId:
    return MachineId(f"{installation}-{state.workspace}-standby-{state.standby.attempt}")


def family_of(label: str) -> str:
    """What the labels of all GPUs of one workspace begin with, and those of no other."""
    return label.rpartition("-e")[0]


def workspace_of(label: str, installation: str) -> WorkspaceName | None:
    """The workspace that a machine's label names, None when the label is not one of ours."""
    prefix = f"{installation}-"
    if not label.startswith(prefix):
        return None
    rest = label.removeprefix(prefix)
    name, dash, last = rest.rpartition("-")
    if last.isdigit() and name.endswith("-standby"):
        return WorkspaceName(name.removesuffix("-standby"))
    name, dash, epoch = name.rpartition("-")
    numbered = last[:1] == "a" and last[1:].isdigit() and epoch[:1] == "e" and epoch[1:].isdigit()
    return WorkspaceName(name) if dash and numbered else None
