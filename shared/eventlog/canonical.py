"""One exact form of a record, so that its hash can be computed again from what the log holds.

Postgres keeps JSON numbers as decimals and hands back 1.0 or 1e22 in another spelling, refuses
the character U+0000 and knows no lone surrogates: all that is settled here, before the append.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from shared import codec
from shared.envelope import Envelope
from shared.eventlog.port import stream_id

GENESIS = bytes(32)
"""What the first record follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row of the log. ``version`` counts the events of its stream from 1."""

    position: int
    stream_id: str
    version: int
    event_id: UUID
    type: str
    schema_version: int
    data: Mapping[str, Any]
    metadata: Mapping[str, Any]
    occurred_at: datetime
    recorded_at: datetime
    prev_hash: bytes
    hash: bytes


def distinct_ids(envelopes: Sequence[Envelope]) -> list[UUID]:
    """The ids of what is to be appended. Raises ValueError for what one append cannot hold."""
    ids = [envelope.id for envelope in envelopes]
    if len(set(ids)) < len(ids):
        raise ValueError("an append holds each event id once")
    if len({envelope.event.workspace for envelope in envelopes}) > 1:
        raise ValueError("an append holds events of one workspace")
    return ids


def chain(
    envelopes: Sequence[Envelope],
    *,
    head: int,
    head_hash: bytes,
    version: int,
    term: int,
    at: datetime,
) -> list[Record]:
    """The records that follow the head, in the order given.

    Raises UndecodableError for an event that could not be read back: recorded once, it would keep
    everybody from reading the log for ever.
    """
    records: list[Record] = []
    previous = head_hash
    for offset, envelope in enumerate(envelopes, start=1):
        record = Record(
            position=head + offset,
            stream_id=stream_id(envelope.event.workspace),
            version=version + offset,
            event_id=envelope.id,
            type=envelope.event.type,
            schema_version=envelope.event.version,
            data=storable(codec.to_data(envelope.event)),
            metadata=storable(_metadata(envelope, term)),
            occurred_at=_utc(envelope.time),
            recorded_at=_utc(at),
            prev_hash=previous,
            hash=b"",
        )
        envelope_of(record)
        previous = digest(record)
        records.append(_hashed(record, previous))
    return records


def digest(record: Record) -> bytes:
    """SHA-256 of the hash before it and of everything in the record."""
    body = {
        "position": record.position,
        "stream_id": record.stream_id,
        "version": record.version,
        "event_id": str(record.event_id),
        "type": record.type,
        "schema_version": record.schema_version,
        "data": _plain(record.data),
        "metadata": _plain(record.metadata),
        "occurred_at": _utc(record.occurred_at).isoformat(timespec="microseconds"),
        "recorded_at": _utc(record.recorded_at).isoformat(timespec="microseconds"),
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(record.prev_hash + text.encode("ascii")).digest()


def envelope_of(record: Record) -> Envelope:
    """Raises UndecodableError for an event that this version does not know."""
    try:
        event = codec.from_data(record.type, record.schema_version, record.data)
    except codec.UndecodableError as error:
        raise codec.UndecodableError(f"position {record.position}: {error}") from None
    metadata = record.metadata
    return Envelope(
        id=record.event_id,
        source=metadata["source"],
        time=_utc(record.occurred_at),
        event=event,
        correlation=_uuid(metadata.get("correlation")),
        causation=_uuid(metadata.get("causation")),
        position=record.position,
    )


def storable(value: Any) -> Any:
    """JSON values with the characters that the log cannot keep replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    return _plain_number(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return _plain_number(value)


def _plain_number(value: Any) -> Any:
    """An integral float as an integer: both are the same JSON number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _metadata(envelope: Envelope, term: int) -> dict[str, Any]:
    return {
        "source": envelope.source,
        "time": _utc(envelope.time).isoformat(),
        "correlation": str(envelope.correlation) if envelope.correlation else None,
        "causation": str(envelope.causation) if envelope.causation else None,
        "epoch": envelope.event.epoch,
        "term": term,
    }


def _hashed(record: Record, value: bytes) -> Record:
    return Record(**{name: getattr(record, name) for name in Record.__slots__} | {"hash": value})


def _utc(moment: datetime) -> datetime:
    """A moment without a zone is one in UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None
