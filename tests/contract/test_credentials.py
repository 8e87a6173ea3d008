"""How a service comes by its certificates, and how long it does without recovery."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.recovery.adapters.authority import Authority
from shared import clock, ssh, subjects
from shared.bus.memory import MemoryBus
from shared.certificates import REPLY, CertificateReply, CertificateRole
from shared.credentials import RETRY_SECONDS, Credentials, CredentialsError
from shared.machines import WorkspaceName
from tests.support.faults import fault

pytestmark = pytest.mark.anyio

WORKSPACE = WorkspaceName("train")
LIFE = 900.0
"""Fifteen minutes; the back-dating is over before it begins."""


class Recovery:
    """The answering side: a real authority whose workspace is at ``epoch``, counting requests."""

    def __init__(self, directory: Path) -> None:
        self.asked = 0
        self.epoch = 3
        self._authority = Authority(
            directory / "keys", epoch_of=lambda _: self.epoch, now=clock.now, new_id=clock.new_id
        )

    async def answer(self, body: bytes) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        return await self._authority.answer(body, "sync")


class SteadyClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


@pytest.fixture
async def recovery(bus: MemoryBus, tmp_path: Path) -> Recovery:
    answering = Recovery(tmp_path)
    await bus.serve(subjects.certificates("sync"), answering.answer)
    return answering


@pytest.fixture
def steady() -> SteadyClock:
    return SteadyClock()


@pytest.fixture
def credentials(bus: MemoryBus, steady: SteadyClock) -> Credentials:
    return Credentials(bus, "sync", ssh.new_key, steady=steady)


def read(credentials: Credentials, epoch: int = 3) -> Awaitable[ssh.Identity]:
    return credentials.identity(WORKSPACE, epoch, CertificateRole.READ)


async def test_one_certificate_serves_for_half_its_life(
    recovery: Recovery, credentials: Credentials, steady: SteadyClock
) -> None:
    first = await read(credentials)
    steady.seconds += LIFE / 2 - 1
    assert await read(credentials) == first
    assert recovery.asked == 1
    steady.seconds += 2
    renewed = await read(credentials)
    assert renewed.certificate != first.certificate
    assert renewed.private_key != first.private_key
    assert recovery.asked == 2


async def test_many_who_ask_at_once_ask_recovery_once(
    recovery: Recovery, credentials: Credentials
) -> None:
    identities = await asyncio.gather(*(read(credentials) for _ in range(8)))
    assert len(set(identities)) == 1
    assert recovery.asked == 1


@fault(16)
async def test_while_recovery_is_away_the_old_certificate_serves_until_its_end(
    bus: MemoryBus, recovery: Recovery, credentials: Credentials, steady: SteadyClock
) -> None:
    first = await read(credentials)
    steady.seconds += LIFE * 0.6
    bus.connected = False
    assert await read(credentials) == first
    steady.seconds += LIFE * 0.4
    with pytest.raises(CredentialsError, match="does not answer"):
        await read(credentials)
    bus.connected = True
    assert await read(credentials) != first


async def test_a_failed_renewal_is_tried_again_soon_but_not_at_each_call(
    bus: MemoryBus, recovery: Recovery, credentials: Credentials, steady: SteadyClock
) -> None:
    first = await read(credentials)
    steady.seconds += LIFE * 0.6
    bus.connected = False
    await read(credentials)
    bus.connected = True
    assert await read(credentials) == first
    steady.seconds += RETRY_SECONDS
    assert await read(credentials) != first


async def test_a_key_made_elsewhere_is_certified_without_its_private_part(
    recovery: Recovery, credentials: Credentials
) -> None:
    private_key, public_key = ssh.new_key()
    arguments = (WORKSPACE, 3, CertificateRole.WRITE, public_key)
    certificate = await credentials.certify(*arguments)
    assert await credentials.certify(*arguments) == certificate
    assert recovery.asked == 1
    # Only a certificate over this very key can be used together with it.
    ssh.Identity(private_key, certificate)
    assert ssh.certificate_validity(certificate)[1] > ssh.certificate_validity(certificate)[0]


async def test_a_refusal_is_told_with_recoverys_reason(
    recovery: Recovery, credentials: Credentials
) -> None:
    with pytest.raises(CredentialsError, match="epoch 4 of train is not current"):
        await read(credentials, epoch=4)
    with pytest.raises(CredentialsError, match="not entitled"):
        await credentials.identity(WORKSPACE, 3, CertificateRole.PROMOTE)


async def test_a_new_epoch_has_certificates_of_its_own(
    recovery: Recovery, credentials: Credentials
) -> None:
    old = await read(credentials, epoch=3)
    recovery.epoch = 4
    assert await read(credentials, epoch=4) != old
    assert await read(credentials, epoch=3) == old, "a job that is just ending may still hold it"
    recovery.epoch = 5
    await read(credentials, epoch=5)
    with pytest.raises(CredentialsError):
        await read(credentials, epoch=3)


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b"[1]", REPLY.dump_json(CertificateReply(certificate="ssh-ed25519 AAAA"))],
)
async def test_an_answer_that_is_none_is_our_own_trouble(
    bus: MemoryBus, credentials: Credentials, answer: bytes
) -> None:
    await bus.serve(subjects.certificates("sync"), always(answer))
    with pytest.raises(CredentialsError):
        await read(credentials)


def always(answer: bytes) -> Callable[[bytes], Awaitable[bytes]]:
    async def handler(_: bytes) -> bytes:
        return answer

    return handler
