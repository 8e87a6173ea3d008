"""Telling people what they did not ask."""

from services.recovery.actions.tools import Outcomes, Tools
from services.recovery.domain.effects import SendNotice
from services.recovery.domain.state import State
from shared.events.recovery import NoticeSent


async def tell(at: Tools, state: State, effect: SendNotice) -> Outcomes:
    """Send the oldest notice that is owed."""
    notice = effect.notice
    channel = await at.notices.send(state.workspace, notice)
    return (
        NoticeSent(
            workspace=state.workspace,
            epoch=effect.epoch,
            number=notice.number,
            severity=notice.severity,
            text=notice.text,
            channel=channel,
        ),
    )
