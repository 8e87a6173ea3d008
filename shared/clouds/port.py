"""What the adapters ask of a cloud's wire client: the clients themselves, and the lab's clouds.

Every call raises CloudError. See the clients for what each answer means.
"""

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from shared.clouds.gce_answers import Vm, VmSpec
from shared.clouds.vast_answers import Ask, Instance


class Vast(Protocol):
    """One Vast account."""

    async def search(
        self,
        filters: Mapping[str, Mapping[str, object]],
        *,
        storage_gb: float,
        limit: int,
        kind: str = "bid",
    ) -> list[Ask]: ...

    async def create(
        self,
        ask: int,
        *,
        label: str,
        image: str,
        disk_gb: float,
        bid: float | None,
        onstart: str = "",
    ) -> int: ...

    async def instance(self, instance: int) -> Instance | None: ...

    async def instances(self) -> list[Instance]: ...

    async def start(self, instance: int) -> None: ...

    async def stop(self, instance: int) -> None: ...

    async def destroy(self, instance: int) -> None: ...

    async def ssh_keys(self) -> list[str]: ...

    async def add_ssh_key(self, public_key: str) -> None: ...


class Gce(Protocol):
    """One project. ``poll`` is the pause between looks at an operation, in seconds."""

    poll: float

    async def get(self, zone: str, name: str) -> Vm | None: ...

    async def all(self) -> list[Vm]: ...

    async def insert(self, zone: str, spec: VmSpec, *, request_id: UUID, within: float) -> None: ...

    async def start(self, zone: str, name: str, *, within: float) -> None: ...

    async def stop(self, zone: str, name: str, *, within: float) -> None: ...

    async def delete(self, zone: str, name: str, *, within: float) -> None: ...
