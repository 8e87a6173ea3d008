"""Whoever may not act any more changes nothing in an account: the last look is at the wire."""

import asyncio

import pytest

from shared.clouds.errors import NoAnswerError
from shared.clouds.vast import VastClient
from tests.support.faults import fault

NOBODY = "http://127.0.0.1:9"


class NotAllowedError(Exception):
    """What a lease says that is over."""


def refuse() -> None:
    raise NotAllowedError


@fault(17)
@pytest.mark.parametrize("call", ["create", "start", "stop", "destroy"])
def test_nothing_is_sent_that_would_change_something(call: str) -> None:
    async def ask() -> None:
        client = VastClient(key="k", url=NOBODY, pace=0.0, may_change=refuse)
        try:
            if call == "create":
                await client.create(1, label="a", image="b", disk_gb=1, bid=None)
            else:
                await getattr(client, call)(1)
        finally:
            await client.aclose()

    with pytest.raises(NotAllowedError):
        asyncio.run(ask())


def test_reading_needs_no_permission() -> None:
    async def ask() -> None:
        client = VastClient(key="k", url=NOBODY, pace=0.0, may_change=refuse)
        try:
            await client.instances()
        finally:
            await client.aclose()

    with pytest.raises(NoAnswerError):
        asyncio.run(ask())
