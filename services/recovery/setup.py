"""One-shot set-up: the schema as its owner, then streams, durable and bucket as NATS ``admin``.

Idempotent, and patient with servers that are still starting: run it before every start.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from services.recovery.migrations import upgrade
from shared.bus.nats_bus import NatsBus
from shared.bus.permissions import ADMIN
from shared.bus.port import BusError
from shared.environment import Environment
from shared.eventlog.port import LogRefusedError

PATIENCE = 30.0
"""Seconds that a server may take to come up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupSettings:
    owner_dsn: str
    owner_password: str = field(repr=False)
    nats_url: str
    nats_user: str
    nats_password: str = field(repr=False)

    @classmethod
    def from_env(cls, variables: Mapping[str, str] = os.environ) -> Self:  # noqa: TID251
        """Settings of a program of its own, which no service may know. Raises SettingsError."""
        env = Environment(variables)
        return cls(
            owner_dsn=env.text("OWNER_DSN"),
            owner_password=env.secret("OWNER_PASSWORD"),
            nats_url=env.text("NATS_URL"),
            nats_user=env.text("NATS_USER", ADMIN),
            nats_password=env.secret("NATS_PASSWORD"),
        )


def main() -> None:
    """Set up what the environment names. Raises SettingsError and as ``run``."""
    asyncio.run(run(SetupSettings.from_env()))


async def run(settings: SetupSettings) -> None:
    """Raises LogRefusedError and BusError: what could not be set up, and why."""
    await migrate(settings.owner_dsn, settings.owner_password)
    try:
        async with (
            asyncio.timeout(PATIENCE),
            NatsBus.connect(settings.nats_url, settings.nats_user, settings.nats_password) as bus,
        ):
            await bus.ensure_streams()
            await bus.update_streams()
    except TimeoutError:
        raise BusError(
            f"NATS at {settings.nats_url} did not answer in {PATIENCE:g} s: is it running?"
        ) from None


async def migrate(dsn: str, password: str) -> None:
    """Bring the schema of the log to the newest version, as the owner. Raises as ``run``."""
    engine = create_async_engine(
        make_url(dsn).set(password=password),
        hide_parameters=True,
        connect_args={"timeout": 5.0, "server_settings": {"application_name": "dumont-setup"}},
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    async with engine.begin() as connection:
                        await connection.run_sync(upgrade)
                    return
                except (OSError, DBAPIError) as error:
                    if isinstance(error, DBAPIError) and not _starting(error):
                        raise LogRefusedError(
                            f"the event log refuses its owner: {error.orig}"
                        ) from None
                    reason = error
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise LogRefusedError(f"the event log did not answer in {PATIENCE:g} s: {reason}") from None
    finally:
        await engine.dispose()


def _starting(error: DBAPIError) -> bool:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state.startswith(("57P03", "08"))
