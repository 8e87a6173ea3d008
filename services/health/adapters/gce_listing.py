"""What Compute Engine says of the project's machines."""

from collections.abc import Mapping

from services.health.domain.detector import ProviderView
from services.health.ports import ProviderError, ProviderUnreachableError, Report
from shared.clouds.errors import CloudError, NoAnswerError
from shared.clouds.port import Gce
from shared.clouds.states import MachineState

_VIEWS = {
    MachineState.RUNNING: ProviderView.RUNNING,
    MachineState.BOOTING: ProviderView.BOOTING,
    MachineState.STOPPED: ProviderView.STOPPED,
    MachineState.FAILED: ProviderView.FAILED,
    MachineState.LOST: ProviderView.LOST,
    MachineState.UNKNOWN: ProviderView.ERROR,
}


class GceListing:
    """Listing over a client whose credentials may only read. Ids are ``ZONE/NAME``."""

    def __init__(self, client: Gce) -> None:
        self._client = client

    async def machines(self) -> Mapping[str, Report]:
        try:
            vms = await self._client.all()
        except CloudError as error:
            raise _sorted(error) from error
        return {f"{vm.zone}/{vm.name}": Report(_VIEWS[vm.said.state], vm.said.text) for vm in vms}

    async def is_gone(self, provider_id: str) -> bool:
        zone, slash, name = provider_id.partition("/")
        if not slash:
            raise ProviderError(f"{provider_id!r} is no id of gce")
        try:
            return await self._client.get(zone, name) is None
        except CloudError as error:
            raise _sorted(error) from error


def _sorted(error: CloudError) -> ProviderError:
    kind = ProviderUnreachableError if isinstance(error, NoAnswerError) else ProviderError
    return kind(str(error))
