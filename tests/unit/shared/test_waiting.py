"""Waiting for news never outlives the one who waits."""

import asyncio

import pytest

from shared.waiting import News

pytestmark = pytest.mark.anyio


async def test_news_are_told_from_a_while_without() -> None:
    news = News()
    assert not await news.comes(0.0)
    news.set()
    assert await news.comes(0.0)
    assert news.is_set()


async def test_news_wake_everyone_who_waits_and_are_kept_for_who_comes_later() -> None:
    news = News()
    waiting = [asyncio.create_task(news.comes(60.0)) for _ in range(2)]
    await asyncio.sleep(0)
    news.set()
    assert await asyncio.gather(*waiting) == [True, True]
    assert await news.comes(60.0)
    news.clear()
    assert not await news.comes(0.0)


async def test_who_is_told_to_end_ends_although_the_news_come_at_the_same_moment() -> None:
    """``asyncio.wait_for`` of Python 3.11 fails this: a loop around it would go on for ever."""
    news = News()
    waiting = asyncio.create_task(news.comes(60.0))
    for _ in range(3):
        await asyncio.sleep(0)
    news.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
