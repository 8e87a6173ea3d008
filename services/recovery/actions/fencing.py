"""Seeing to it that a machine without a place can neither serve nor bill."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from services.recovery.actions.tools import Outcomes, Tools
from services.recovery.domain.effects import Fence
from services.recovery.domain.state import Condemned, End, State
from services.recovery.domain.world import RentalStatus
from services.recovery.ports import MachineProvider, ProviderError
from shared.events import Event
from shared.events.recovery import FenceDelayed, OrphanDestroyed, PrimaryFenced


async def fence(at: Tools, state: State, effect: Fence) -> Outcomes:
    """Stop or destroy a machine until its provider shows it so."""
    condemned = effect.condemned
    provider = at.provider(condemned.provider)
    if condemned.end is End.STOP:
        ended = await _until_seen(
            at,
            "stopped",
            partial(provider.stop, condemned.provider_id),
            partial(_left, provider, condemned),
        )
        if not ended:
            return (_delayed(at, state, condemned),)
        return (_fenced(at, state, condemned, condemned.provider_id, "stopped"),)
    if condemned.provider_id:
        await _destroy(at, provider, condemned.provider_id)
        return (_fenced(at, state, condemned, condemned.provider_id, "destroyed"),)
    # Only the label is known: the rental whose answer never came may still show up.
    until = at.now() + timedelta(seconds=at.pace.settle)
    while True:
        for rental in await provider.find(condemned.machine):
            await _destroy(at, provider, rental.provider_id)
        if at.now() >= until:
            return (_fenced(at, state, condemned, "", "destroyed"),)
        await asyncio.sleep(at.pace.poll)


async def _destroy(at: Tools, provider: MachineProvider, provider_id: str) -> None:
    await _until_seen(at, "gone", partial(provider.destroy, provider_id))


async def _until_seen(
    at: Tools,
    end: str,
    ask: Callable[[], Awaitable[bool]],
    given_up: Callable[[], Awaitable[bool]] | None = None,
) -> bool:
    """Ask again until the provider shows it. One that never does is an error to be told.

    False once the provider has lost the machine's host, told so by ``given_up``.
    """
    until = at.now() + timedelta(seconds=at.pace.settle)
    while not await ask():
        if given_up is not None and await given_up():
            return False
        if at.now() >= until:
            raise ProviderError(
                f"the provider was asked again and again and does not show the machine {end}",
                "look in the provider's console: it may still be billed",
            )
        await asyncio.sleep(at.pace.poll)
        at.may_act()
    return True


async def _left(provider: MachineProvider, condemned: Condemned) -> bool:
    """Whether its host left the market, and the log does not know it yet."""
    if condemned.off_market:
        return False
    rental = await provider.get(condemned.provider_id)
    return rental is not None and rental.status is RentalStatus.LOST


def _delayed(at: Tools, state: State, condemned: Condemned) -> Event:
    return FenceDelayed(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=condemned.machine,
        provider_id=condemned.provider_id,
        seen_at=at.now(),
    )


def _fenced(at: Tools, state: State, condemned: Condemned, provider_id: str, how: str) -> Event:
    if condemned.orphan:
        return OrphanDestroyed(
            workspace=state.workspace,
            epoch=state.epoch,
            machine=condemned.machine,
            provider_id=provider_id,
            reason=condemned.reason,
            seen_at=at.now(),
        )
    return PrimaryFenced(
        workspace=state.workspace,
        epoch=state.epoch,
        machine=condemned.machine,
        provider_id=provider_id,
        how=how,
        seen_at=at.now(),
        role=condemned.role,
    )
