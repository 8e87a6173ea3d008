"""Wait for news, but not for ever.

``asyncio.wait_for`` of Python 3.11 loses a cancellation that comes together with the news: a loop
that is to end then goes on, and its process neither works nor ends. Hence this one.
"""

import asyncio


async def comes(news: asyncio.Event, within: float) -> bool:
    """Whether ``news`` is set within so many seconds. Does not clear it."""
    if news.is_set():
        return True
    try:
        async with asyncio.timeout(within):
            await news.wait()
    except TimeoutError:
        return False
    return True
