"""A workspace and its hosts, as assignments name them."""

from dataclasses import replace

from shared.assignments import Assignment, SyncMode
from shared.machines import Host, MachineId, WorkspaceName
from shared.policy import Policy

TRAIN = WorkspaceName("train")


def host(name: str) -> Host:
    return Host(id=MachineId(name), provider="ssh", provider_id=name, address="127.0.0.1", port=22)


GPU, STANDBY, CANDIDATE = host("gpu-1"), host("standby-1"), host("gpu-2")


def assignment(mode: SyncMode, **fields: object) -> Assignment:
    """At epoch 1, with the hosts that the mode needs."""
    restoring = mode in {SyncMode.RESTORE, SyncMode.FINAL}
    plain = Assignment(
        workspace=TRAIN,
        epoch=1,
        position=10,
        mode=mode,
        path="/workspace",
        policy=Policy(sync_interval=30.0, watch=False),
        standby=STANDBY,
        primary=GPU if mode is SyncMode.MIRROR else None,
        candidate=CANDIDATE if restoring else None,
        attempt=1 if restoring else 0,
        round=1 if restoring else 0,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]
