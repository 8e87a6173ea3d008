"""One exact form of a record, so that its hash can be computed again from what the log holds.

Postgres keeps JSON numbers as decimals and hands back 1.0 or 1e22 in another spelling, refuses
the character U+0000 and knows no lone surrogates: all that is settled here, before the append.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from shared import codec
from shared.envelope import Envelope
from shared.eventlog.port import Batch, stream_id
from shared.events import Event

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


class Encoded(NamedTuple):
    """An event as the log will hold it, but for its place: most of the work of an append.

    ``data`` and ``metadata`` are canonical JSON texts; ``event`` is what a reader will get, and
    ``time`` (as text ``occurred_at``) when it happened.
    """

    said: Envelope
    event: Event
    stream_id: str
    version: int
    data: str
    metadata: str
    time: datetime
    occurred_at: str


def distinct_ids(batches: Sequence[Batch]) -> list[UUID]:
    """The ids of what is to be appended. Raises ValueError for what one append cannot hold."""
    ids = [envelope.id for batch in batches for envelope in batch.envelopes]
    if len(set(ids)) < len(ids):
        raise ValueError("an append holds each event id once")
    for batch in batches:
        if len({envelope.event.workspace for envelope in batch.envelopes}) > 1:
            raise ValueError("a batch holds events of one workspace")
    return ids


def encoded(batches: Sequence[Batch], *, term: int) -> list[Encoded]:
    """All events of an append, in order, each with the version that it will have in its stream.

    Raises ValueError for batches of one workspace that do not follow each other, and
    UndecodableError for an event that could not be read back: recorded once, it would keep
    everybody from reading the log for ever.
    """
    versions: dict[str, int] = {}
    found: list[Encoded] = []
    for batch in batches:
        for version, envelope in enumerate(batch.envelopes, start=batch.expected_version + 1):
            stream = stream_id(envelope.event.workspace)
            if versions.setdefault(stream, version - 1) != version - 1:
                raise ValueError(f"{stream}: its batches do not follow each other")
            versions[stream] = version
            found.append(_encoded(envelope, stream, version, term))
    return found


def expected_versions(events: Sequence[Encoded]) -> dict[str, int]:
    """How many events each stream must have before these."""
    found: dict[str, int] = {}
    for event in events:
        found.setdefault(event.stream_id, event.version - 1)
    return found


def records(
    events: Sequence[Encoded], *, head: int, head_hash: bytes, recorded_at: datetime
) -> list[Record]:
    """The rows that these events become when they follow the head."""
    hashes = linked(events, head=head, head_hash=head_hash, recorded_at=recorded_at)
    return [
        Record(
            position=position,
            stream_id=event.stream_id,
            version=event.version,
            event_id=event.said.id,
            type=event.event.type,
            schema_version=event.event.version,
            data=json.loads(event.data),
            metadata=json.loads(event.metadata),
            occurred_at=event.time,
            recorded_at=_utc(recorded_at),
            prev_hash=previous,
            hash=own,
        )
        for position, (event, previous, own) in enumerate(
            zip(events, [head_hash, *hashes], hashes, strict=False), start=head + 1
        )
    ]


def linked(
    events: Sequence[Encoded], *, head: int, head_hash: bytes, recorded_at: datetime
) -> list[bytes]:
    """The hash of each event when they follow the head in this order."""
    hashes: list[bytes] = []
    previous, recorded = head_hash, _iso(recorded_at)
    for position, event in enumerate(events, start=head + 1):
        previous = _link(
            previous,
            position=position,
            stream_id=event.stream_id,
            version=event.version,
            event_id=event.said.id,
            type=event.event.type,
            schema_version=event.event.version,
            data=event.data,
            metadata=event.metadata,
            occurred_at=event.occurred_at,
            recorded_at=recorded,
        )
        hashes.append(previous)
    return hashes


def placed(events: Sequence[Encoded], *, head: int) -> list[Envelope]:
    """What a reader will get of these events when they follow the head."""
    return [
        Envelope(
            id=event.said.id,
            source=_kept_text(event.said.source),
            time=event.time,
            event=event.event,
            correlation=event.said.correlation,
            causation=event.said.causation,
            position=position,
        )
        for position, event in enumerate(events, start=head + 1)
    ]


def digest(record: Record) -> bytes:
    """SHA-256 of the hash before it and of everything in the record."""
    return _link(
        record.prev_hash,
        position=record.position,
        stream_id=record.stream_id,
        version=record.version,
        event_id=record.event_id,
        type=record.type,
        schema_version=record.schema_version,
        data=canonical_json(record.data),
        metadata=canonical_json(record.metadata),
        occurred_at=_iso(record.occurred_at),
        recorded_at=_iso(record.recorded_at),
    )


def _link(
    previous: bytes,
    *,
    position: int,
    stream_id: str,
    version: int,
    event_id: UUID,
    type: str,
    schema_version: int,
    data: str,
    metadata: str,
    occurred_at: str,
    recorded_at: str,
) -> bytes:
    """The members of this object are in the order of their names, as in all canonical JSON."""
    text = (
        f'{{"data":{data},"event_id":"{event_id}","metadata":{metadata},'
        f'"occurred_at":"{occurred_at}","position":{position},"recorded_at":"{recorded_at}",'
        f'"schema_version":{schema_version},"stream_id":{_quoted(stream_id)},'
        f'"type":{_quoted(type)},"version":{version}}}'
    )
    return hashlib.sha256(previous + text.encode("ascii")).digest()


def canonical_json(value: Any) -> str:
    """JSON in ASCII, members in order of their names, no spaces, integral numbers as integers."""
    text = _ENCODE(value)
    return text if _as_kept(text) else _ENCODE(storable(value))


def _encoded(envelope: Envelope, stream: str, version: int, term: int) -> Encoded:
    event = envelope.event
    fields = codec.to_data(event)
    data = _ENCODE(fields)
    if not _as_kept(data):
        fields = storable(fields)
        data = _ENCODE(fields)
    kept = codec.from_data(event.type, event.version, fields)
    time = _utc(envelope.time)
    occurred_at = _iso(time)
    metadata = (
        f'{{"causation":{_id(envelope.causation)},"correlation":{_id(envelope.correlation)},'
        f'"epoch":{kept.epoch},"source":{_quoted(_kept_text(envelope.source))},"term":{term},'
        f'"time":"{occurred_at if time.microsecond else time.isoformat()}"}}'
    )
    return Encoded(
        said=envelope,
        event=kept,
        stream_id=stream,
        version=version,
        data=data,
        metadata=metadata,
        time=time,
        occurred_at=occurred_at,
    )


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
        return _kept_text(value)
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    return _plain_number(value)


@lru_cache(maxsize=1024)
def _kept_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _plain_number(value: Any) -> Any:
    """An integral float as an integer: both are the same JSON number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode

_EXPONENT = re.compile(r"[0-9]e[+-][0-9]")


def _as_kept(text: str) -> bool:
    """Whether the log hands back this JSON as it is: no U+0000 or surrogates, no integral floats.

    When in doubt it says no: what it guards costs several times as much.
    """
    if "\\u" in text or ".0," in text or ".0}" in text or ".0]" in text:
        return False
    return not (("e+" in text or "e-" in text) and _EXPONENT.search(text))


_quoted = lru_cache(maxsize=1024)(json.dumps)


def _id(id: UUID | None) -> str:
    return f'"{id}"' if id else "null"


def _iso(moment: datetime) -> str:
    return _utc(moment).isoformat(timespec="microseconds")


def _utc(moment: datetime) -> datetime:
    """A moment without a zone is one in UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None
