"""What Vast says of the account's machines."""

from collections.abc import Mapping

from services.health.domain.detector import ProviderView
from services.health.ports import ProviderError, ProviderUnreachableError, Report
from shared.clouds.errors import CloudError, NoAnswerError
from shared.clouds.port import Vast
from shared.clouds.states import MachineState

_VIEWS = {
    MachineState.RUNNING: ProviderView.RUNNING,
    MachineState.BOOTING: ProviderView.BOOTING,
    MachineState.STOPPED: ProviderView.STOPPED,
    MachineState.FAILED: ProviderView.FAILED,
    MachineState.LOST: ProviderView.LOST,
    MachineState.UNKNOWN: ProviderView.ERROR,
}


class VastListing:
    """Listing over a client whose key may only read."""

    def __init__(self, client: Vast) -> None:
        self._client = client

    async def machines(self) -> Mapping[str, Report]:
        try:
            rows = await self._client.instances()
        except CloudError as error:
            raise _sorted(error) from error
        return {str(row.id): Report(_VIEWS[row.said.state], row.said.text) for row in rows}

    async def is_gone(self, provider_id: str) -> bool:
        if not provider_id.isdigit():
            raise ProviderError(f"{provider_id!r} is no id of vast")
        try:
            return await self._client.instance(int(provider_id)) is None
        except CloudError as error:
            raise _sorted(error) from error


def _sorted(error: CloudError) -> ProviderError:
    kind = ProviderUnreachableError if isinstance(error, NoAnswerError) else ProviderError
    return kind(str(error))
