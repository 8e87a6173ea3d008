"""How people are told: a line in the log, and a webhook that is never named."""

from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from services.recovery.adapters.notices import LogNotices, WebhookNotices
from services.recovery.domain.state import Notice
from services.recovery.ports import NoticeError
from shared.machines import WorkspaceName
from tests.support.faults import fault
from tests.support.http_answers import Answer, Answers, prepared_answers

pytestmark = pytest.mark.anyio

WS = WorkspaceName("train")
NOTICE = Notice(number=3, severity="critical", text="recovery halted", hint="dumont recover train")


async def with_webhook(answers: Answers, do: Callable[[WebhookNotices], Awaitable[None]]) -> None:
    webhook = WebhookNotices(f"{answers.url}/hook-7f3a")
    try:
        await do(webhook)
    finally:
        await webhook.aclose()


async def test_a_notice_is_a_line_in_the_log() -> None:
    with capture_logs() as lines:
        assert await LogNotices().send(WS, NOTICE) == "log"
    (line,) = lines
    assert line["log_level"] == "error"
    assert line["text"] == "recovery halted (dumont recover train)"


async def test_a_webhook_gets_one_post_under_the_notices_number() -> None:
    with prepared_answers() as answers:
        answers.to("POST", "/hook-7f3a", Answer())

        async def send(webhook: WebhookNotices) -> None:
            assert await webhook.send(WS, NOTICE) == "webhook"

        await with_webhook(answers, send)
        (asked,) = answers.asked
    assert asked.body["text"] == "dumont train: recovery halted (dumont recover train)"
    assert asked.body["severity"] == "critical"
    assert asked.headers["Idempotency-Key"] == "train-3"


@fault(98)
@pytest.mark.parametrize("answer", [Answer(status=500), Answer(hang_up=True)])
async def test_a_webhook_that_fails_is_an_error_without_its_address(answer: Answer) -> None:
    with prepared_answers() as answers, capture_logs() as lines:
        answers.to("POST", "/hook-7f3a", answer)

        async def send(webhook: WebhookNotices) -> None:
            with pytest.raises(NoticeError) as failed:
                await webhook.send(WS, NOTICE)
            assert "hook-7f3a" not in str(failed.value)

        await with_webhook(answers, send)
    assert "hook-7f3a" not in str(lines)
