"""Short-lived SSH certificates for services, asked of recovery over the bus and kept in memory.

A certificate is renewed at half its life, so that recovery may be away for the other half
without anybody noticing. Its life is counted from its arrival by this process's own steady
clock: a wall clock that is wrong can neither keep a certificate too long nor ask all the time.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from shared import subjects
from shared.bus.port import Bus, BusError
from shared.certificates import BACKDATE, REPLY, REQUEST, CertificateRequest, CertificateRole
from shared.machines import WorkspaceName
from shared.ssh import Identity, certificate_validity

ASK_SECONDS = 3.0
RETRY_SECONDS = 5.0
"""How long after a failed renewal the next one is tried, while the old certificate still holds."""


class CredentialsError(Exception):
    """No certificate could be had: our own trouble, it says nothing about any host."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """What a certificate is for; ``public_key`` is empty for keys that are made here."""

    workspace: WorkspaceName
    epoch: int
    role: CertificateRole
    public_key: str = ""


@dataclass(slots=True)
class _Held:
    """Times are of the steady clock, in seconds."""

    certificate: str
    private_key: str
    renew_at: float
    ends_at: float


class Credentials:
    """The certificates of ``service``; ``new_key`` makes a pair (private PEM, public line)."""

    def __init__(
        self,
        bus: Bus,
        service: str,
        new_key: Callable[[], tuple[str, str]],
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._service = service
        self._new_key = new_key
        self._steady = steady
        self._held: dict[_Slot, _Held] = {}
        self._asking: dict[_Slot, asyncio.Lock] = {}

    async def identity(
        self, workspace: WorkspaceName, epoch: int, role: CertificateRole
    ) -> Identity:
        """A key made here with its certificate. Raises CredentialsError."""
        held = await self._get(_Slot(workspace, epoch, role))
        return Identity(held.private_key, held.certificate)

    async def certify(
        self, workspace: WorkspaceName, epoch: int, role: CertificateRole, public_key: str
    ) -> str:
        """The certificate line for a key that was made elsewhere. Raises CredentialsError."""
        return (await self._get(_Slot(workspace, epoch, role, public_key))).certificate

    async def _get(self, slot: _Slot) -> _Held:
        if (held := self._held.get(slot)) and self._steady() < held.renew_at:
            return held
        async with self._asking.setdefault(slot, asyncio.Lock()):
            held = self._held.get(slot)
            now = self._steady()
            if held and now < held.renew_at:
                return held  # somebody else renewed it while we waited
            try:
                renewed = await self._ask(slot)
            except CredentialsError:
                if held is None or now >= held.ends_at:
                    self._held.pop(slot, None)
                    raise
                held.renew_at = now + RETRY_SECONDS
                return held
            self._forget_older(slot)
            self._held[slot] = renewed
            return renewed

    async def _ask(self, slot: _Slot) -> _Held:
        private_key, public_key = ("", slot.public_key) if slot.public_key else self._new_key()
        request = CertificateRequest(
            workspace=slot.workspace, epoch=slot.epoch, role=slot.role, public_key=public_key
        )
        asked_at = self._steady()
        try:
            body = await self._bus.request(
                subjects.certificates(self._service),
                REQUEST.dump_json(request),
                timeout=ASK_SECONDS,
            )
            reply = REPLY.validate_json(body)
        except BusError as error:
            raise CredentialsError(f"recovery does not answer for certificates: {error}") from error
        except ValidationError:
            raise CredentialsError("recovery's answer for a certificate is not readable") from None
        if reply.error:
            raise CredentialsError(f"recovery gives no certificate: {reply.error}")
        try:
            after, before = certificate_validity(reply.certificate)
        except ValueError as error:
            raise CredentialsError(f"recovery's answer is {error}") from None
        life = before - after - BACKDATE.total_seconds()
        return _Held(reply.certificate, private_key, asked_at + life / 2, asked_at + life)

    def _forget_older(self, slot: _Slot) -> None:
        """Drop what belongs to epochs that are over: recovery may still ask for the one before."""
        for old in [s for s in self._held if s.workspace == slot.workspace]:
            if old.epoch < slot.epoch - 1:
                del self._held[old]
                self._asking.pop(old, None)
