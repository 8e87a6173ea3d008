"""What the log itself says, read with a role that can only SELECT, without the api."""

from cli.client import Json
from cli.connection import Target
from cli.errors import CliError
from services.api.domain.presentation import as_json
from services.api.domain.projections import fold
from services.api.schemas import WorkspaceShown
from shared.clock import now
from shared.envelope import Envelope
from shared.eventlog.port import LogUnknownError
from shared.eventlog.reader import PostgresReader
from shared.machines import WorkspaceName

_PAGE = 1000


async def state_from_log(where: Target, workspace: WorkspaceName) -> Json:
    """The state of a workspace, folded from its first event on. Raises CliError."""
    log = where.log()
    try:
        async with PostgresReader(log.dsn, log.password) as reader:
            events = await _read_all(reader, workspace)
    except LogUnknownError as error:
        raise silent_log(error) from None
    view = fold(events)
    if view is None:
        raise CliError(
            f"the log knows no workspace {workspace!r}", "see them with: dumont workspace list"
        )
    state = as_json(view, now(), endpoint_host=log.endpoint_host)
    # Through the api's own schema: the same spelling of times and numbers as in its answers.
    return WorkspaceShown.model_validate(state).model_dump(mode="json")


async def _read_all(reader: PostgresReader, workspace: WorkspaceName) -> list[Envelope]:
    events: list[Envelope] = []
    while page := await reader.read_workspace(workspace, after=_last(events), limit=_PAGE):
        events += page
    return events


def _last(events: list[Envelope]) -> int:
    return (events[-1].position or 0) if events else 0


def silent_log(error: LogUnknownError) -> CliError:
    return CliError(str(error), "is Postgres up? see: dumont doctor")
