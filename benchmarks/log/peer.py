"""The peer as it ships: eventsourcing's own recorder, mapper and JSON transcoder, on psycopg."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsourcing.domain import DomainEvent
from eventsourcing.persistence import (
    DatetimeAsISO,
    JSONTranscoder,
    Mapper,
    StoredEvent,
    UUIDAsHex,
)
from eventsourcing.postgres import (
    PostgresApplicationRecorder,
    PostgresDatastore,
    PostgresProcessRecorder,
)
from sqlalchemy import make_url

from shared.envelope import Envelope
from shared.events.health import HealthFailed
from tests.support.servers import Postgres

NAME = "eventsourcing"


class HealthFailedAsTheirs(DomainEvent):
    """The fields of our fact and of its envelope, as JSON values."""

    epoch: int
    machine: str
    role: str
    failures: int
    threshold: int
    reason: str
    evidence: list[str]
    workspace: str
    source: str
    correlation: str
    causation: str


def theirs(envelope: Envelope, *, originator: UUID, version: int) -> HealthFailedAsTheirs:
    event = envelope.event
    assert isinstance(event, HealthFailed)
    return HealthFailedAsTheirs(
        originator_id=originator,
        originator_version=version,
        timestamp=envelope.time,
        epoch=event.epoch,
        machine=event.machine,
        role=str(event.role),
        failures=event.failures,
        threshold=event.threshold,
        reason=event.reason,
        evidence=list(event.evidence),
        workspace=event.workspace,
        source=envelope.source,
        correlation=str(envelope.correlation),
        causation=str(envelope.causation),
    )


def from_json(said: Mapping[str, Any], *, originator: UUID, version: int) -> HealthFailedAsTheirs:
    """The same out of a message of the bus."""
    return HealthFailedAsTheirs(
        originator_id=originator,
        originator_version=version,
        timestamp=datetime.fromisoformat(said["time"]),
        source=said["source"],
        correlation=said["correlationid"],
        causation=said["causationid"],
        **said["data"],
    )


def mapper() -> Mapper[UUID]:
    transcoder = JSONTranscoder()
    transcoder.register(UUIDAsHex())
    transcoder.register(DatetimeAsISO())
    return Mapper(transcoder)


@contextmanager
def datastore(
    server: Postgres, *, pool_size: int = 2, db_functions: bool = False
) -> Iterator[PostgresDatastore]:
    """Its pool of connections to a database of its own beside ours, by the same unix socket."""
    url = make_url(server.server.dsn("admin", database="peer"))
    store = PostgresDatastore(
        dbname="peer",
        host=str(url.query["host"]),
        port=str(url.query["port"]),
        user=str(url.username),
        password=server.passwords["admin"],
        pool_size=pool_size,
        enable_db_functions=db_functions,
    )
    try:
        yield store
    finally:
        store.close()


def recorder(store: PostgresDatastore, table: str) -> PostgresApplicationRecorder:
    made = PostgresApplicationRecorder(store, events_table_name=table)
    made.create_table()
    return made


def processor(store: PostgresDatastore, name: str) -> PostgresProcessRecorder:
    """Its recorder that keeps events and, in the same transaction, how far a reader has come."""
    made = PostgresProcessRecorder(
        store, events_table_name=f"{name}_events", tracking_table_name=f"{name}_tracking"
    )
    made.create_table()
    return made


def stored(events: Sequence[HealthFailedAsTheirs], mapping: Mapper[UUID]) -> Sequence[StoredEvent]:
    return [mapping.to_stored_event(event) for event in events]
