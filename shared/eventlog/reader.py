"""The log in Postgres, for those who may only read it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import Any, Self
from uuid import UUID

import asyncpg
from sqlalchemy import Select, func, make_url, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared.envelope import Envelope
from shared.eventlog.canonical import Record, envelope_of
from shared.eventlog.port import LogRefusedError, LogUnknownError, stream_id
from shared.eventlog.schema import event_log, relay_cursor, writer_lease
from shared.machines import WorkspaceName

CONNECT_TIMEOUT = 4.0
COMMAND_TIMEOUT = 4.0
"""Seconds after which a silent database is one that did not answer."""

POOL_SIZE = 3

_SERVER_SETTINGS = {
    # A backend whose client was cut off ends within seconds and lets its locks go.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "8000",
    "statement_timeout": "4000",
    "lock_timeout": "3000",
    "idle_in_transaction_session_timeout": "10000",
    "timezone": "UTC",
}


def log_engine(
    dsn: str, password: str, *, application: str, settings: Mapping[str, str] = MappingProxyType({})
) -> AsyncEngine:
    """An engine on the log where every statement is its own transaction.

    ``settings`` are those of the server for its sessions.

    ``dsn`` is ``postgresql+asyncpg://USER@HOST:PORT/DATABASE`` or, for a unix socket,
    ``postgresql+asyncpg://USER@/DATABASE?host=DIRECTORY&port=PORT``; the password stays out of it.
    """
    return create_async_engine(
        make_url(dsn).set(password=password),
        isolation_level="AUTOCOMMIT",
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT,
        pool_pre_ping=False,
        hide_parameters=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": COMMAND_TIMEOUT,
            "server_settings": {**_SERVER_SETTINGS, **settings, "application_name": application},
        },
    )


class PostgresReader:
    """Use it as ``async with PostgresReader(dsn, password) as log``."""

    application = "dumont-reader"
    settings: Mapping[str, str] = MappingProxyType({})

    def __init__(self, dsn: str, password: str) -> None:
        self._engine = log_engine(
            dsn, password, application=self.application, settings=self.settings
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.dispose()

    async def read(self, *, after: int = 0, limit: int = 1000) -> list[Envelope]:
        return [envelope_of(record) for record in await self.records(after=after, limit=limit)]

    async def read_workspace(
        self, workspace: WorkspaceName, *, after: int = 0, limit: int = 1000
    ) -> list[Envelope]:
        query = _page(after, limit).where(event_log.c.stream_id == stream_id(workspace))
        return [envelope_of(record) for record in await self._records(query)]

    async def head(self) -> int:
        query = select(func.coalesce(func.max(event_log.c.position), 0))
        async with self._answering() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def known(self, ids: Collection[UUID]) -> set[UUID]:
        query = select(event_log.c.event_id).where(event_log.c.event_id.in_(list(ids)))
        async with self._answering() as connection:
            return set((await connection.execute(query)).scalars())

    async def records(self, *, after: int = 0, limit: int = 1000) -> list[Record]:
        """The rows themselves, with their hashes: what ``verify`` looks at."""
        return await self._records(_page(after, limit))

    async def claimed_head(self) -> int:
        """The last position that was ever recorded, as lease and relay remember it."""
        query = select(func.greatest(writer_lease.c.head, relay_cursor.c.position)).join_from(
            writer_lease, relay_cursor, writer_lease.c.id == relay_cursor.c.id
        )
        async with self._answering() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def ping(self) -> None:
        """Raises LogUnknownError unless the log answers."""
        async with self._answering() as connection:
            await connection.execute(text("SELECT 1 FROM event_log LIMIT 1"))

    async def _records(self, query: "Select[Any]") -> list[Record]:
        async with self._answering() as connection:
            rows = (await connection.execute(query)).mappings()
            return [Record(**row) for row in rows]

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[AsyncConnection]:
        """A connection; whatever becomes of it, only LogUnknownError says that it fell silent."""
        with errors_sorted():
            async with self._engine.connect() as connection:
                try:
                    yield connection
                except (TimeoutError, OSError, asyncio.CancelledError):
                    # Its answer may still come: nobody else may get this connection.
                    await connection.invalidate()
                    raise
                except DBAPIError as error:
                    if isinstance(_sorted_out_of(error), LogUnknownError):
                        # What it met may be its own for good: a session that began while the
                        # database was read-only stays so.
                        await connection.invalidate()
                    raise


@contextmanager
def errors_sorted() -> Iterator[None]:
    """Turns errors of SQLAlchemy and of the driver under it into those of the log.

    What is left as it is, is a bug of ours.
    """
    try:
        yield
    except (TimeoutError, OSError) as error:
        raise LogUnknownError(f"the event log did not answer: {error or 'timeout'}") from error
    except DBAPIError as error:
        if sorted_out := _sorted_out_of(error):
            raise sorted_out from error
        raise
    except SQLAlchemyError as error:
        raise LogUnknownError(f"the event log did not answer: {error}") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        lost = isinstance(error, (asyncpg.PostgresConnectionError, asyncpg.InterfaceError))
        if sorted_out := _sorted_out(error, lost=lost):
            raise sorted_out from error
        raise


_SILENT_STATES = ("08", "53", "57", "58", "25006", "55P03")
"""SQLSTATEs of a server that is lost, out of room, stopping, failing, read-only or locked."""


_REFUSAL_STATES = ("28", "3D", "42501", "42P01")
"""SQLSTATEs of a wrong password, a missing database, a missing right, a missing table."""


def _sorted_out(
    error: BaseException | None, *, lost: bool
) -> LogUnknownError | LogRefusedError | None:
    state = str(getattr(error, "sqlstate", None) or "")
    if state.startswith(_REFUSAL_STATES):
        return LogRefusedError(f"the event log refuses us: {error}")
    if lost or state.startswith(_SILENT_STATES):
        return LogUnknownError(f"the event log did not answer: {error}")
    return None


def _sorted_out_of(error: DBAPIError) -> LogUnknownError | LogRefusedError | None:
    lost = error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))
    return _sorted_out(error.orig, lost=lost)


def _page(after: int, limit: int) -> "Select[Any]":
    return (
        select(event_log)
        .where(event_log.c.position > after)
        .order_by(event_log.c.position)
        .limit(limit)
    )
