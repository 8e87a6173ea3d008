"""Notices to people: always a line in the service's log, and a webhook where one is set."""

import httpx
import structlog

from services.recovery.domain.state import Notice
from services.recovery.ports import NoticeError
from shared.machines import WorkspaceName

TIMEOUT = 5.0
LEVELS = {"critical": "error", "warning": "warning", "info": "info"}

log = structlog.get_logger()


class LogNotices:
    """For whoever reads the service's log."""

    async def send(self, workspace: WorkspaceName, notice: Notice) -> str:
        write = getattr(log, LEVELS[notice.severity])
        write("notice", workspace=workspace, number=notice.number, text=_text(notice))
        return "log"


class WebhookNotices:
    """One POST a notice, as JSON with a ``text``, which the common chat services show as it is.

    ``url`` is a secret: who knows it may write there. ``Idempotency-Key`` is the same when a
    notice is sent again.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False)
        self._url = url
        self._log = LogNotices()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def send(self, workspace: WorkspaceName, notice: Notice) -> str:
        await self._log.send(workspace, notice)
        body = {
            "text": f"dumont {workspace}: {_text(notice)}",
            "workspace": workspace,
            "number": notice.number,
            "severity": notice.severity,
            "hint": notice.hint,
        }
        key = f"{workspace}-{notice.number}"
        try:
            answer = await self._client.post(self._url, json=body, headers={"Idempotency-Key": key})
        except httpx.HTTPError as error:
            raise NoticeError(f"the webhook did not answer: {type(error).__name__}") from None
        if not answer.is_success:
            raise NoticeError(f"the webhook answered {answer.status_code}")
        return "webhook"


def _text(notice: Notice) -> str:
    return f"{notice.text} ({notice.hint})" if notice.hint else notice.text
