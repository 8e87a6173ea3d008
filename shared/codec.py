"""Events to CloudEvents 1.0 JSON and back (https://github.com/cloudevents/spec, structured mode).

pydantic checks at this edge; inside, events are plain dataclasses. Fields from the future are
ignored, missing new fields take their defaults, older versions are lifted by upcasters.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from shared.envelope import Envelope
from shared.events import EVENTS, Event
from shared.machines import workspace_name

TYPE_PREFIX = "dumont."
SOURCE_PREFIX = "/dumont/"

# (type, from_version) -> the same data, one version later. Never delete a line.
UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}


class UndecodableError(ValueError):
    """These bytes are no event of ours; the message says why."""


_ENVELOPE = TypeAdapter(Envelope)


_ADAPTERS: dict[str, TypeAdapter[Event]] = {
    type_: TypeAdapter(cls) for type_, cls in EVENTS.items()
}


def to_data(event: Event) -> dict[str, Any]:
    """The event's fields as JSON values."""
    data = _ADAPTERS[event.type].dump_python(event, mode="json")
    assert isinstance(data, dict)
    return data


def from_data(type_: str, version: int, data: Mapping[str, Any]) -> Event:
    """Build the event of this type from JSON values of any version so far.

    Raises UndecodableError.
    """
    cls = EVENTS.get(type_)
    if cls is None:
        raise UndecodableError(f"unknown event type {type_!r}")
    if not 1 <= version <= cls.version:
        raise UndecodableError(
            f"{type_} v{version} is not known here (v{cls.version} is the newest)"
        )
    lifted = dict(data)
    for older in range(version, cls.version):
        lifted = UPCASTERS[type_, older](lifted)
    try:
        return _ADAPTERS[type_].validate_python(lifted)
    except ValidationError as error:
        places = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise UndecodableError(f"{type_} v{version}: {places}") from None


def to_cloudevent(envelope: Envelope) -> dict[str, Any]:
    event = envelope.event
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(envelope.id),
        "source": SOURCE_PREFIX + envelope.source,
        "type": f"{TYPE_PREFIX}{event.type}.v{event.version}",
        "subject": event.workspace,
        "time": envelope.time.isoformat(),
        "datacontenttype": "application/json",
        "epoch": event.epoch,
        "data": to_data(event),
    }
    if envelope.correlation is not None:
        body["correlationid"] = str(envelope.correlation)
    if envelope.causation is not None:
        body["causationid"] = str(envelope.causation)
    if envelope.position is not None:
        body["position"] = envelope.position
    return body


def encode(envelope: Envelope) -> bytes:
    return json.dumps(to_cloudevent(envelope), separators=(",", ":")).encode()


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that can be kept")
    return number


def decode(body: bytes) -> Envelope:
    """Read one structured CloudEvent. Raises UndecodableError, never anything else."""
    try:
        raw = json.loads(body, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        raise UndecodableError("not JSON") from None
    if not isinstance(raw, dict):
        raise UndecodableError("not a JSON object")
    return from_cloudevent(raw)


def from_cloudevent(raw: Mapping[str, Any]) -> Envelope:
    try:
        type_, _, version = str(raw["type"]).removeprefix(TYPE_PREFIX).rpartition(".v")
        event = from_data(type_, int(version), raw["data"])
        workspace_name(event.workspace)
        envelope = _ENVELOPE.validate_python(
            {
                "id": raw["id"],
                "source": str(raw["source"]).removeprefix(SOURCE_PREFIX),
                "time": raw["time"],
                "event": event,
                "correlation": raw.get("correlationid"),
                "causation": raw.get("causationid"),
                "position": raw.get("position"),
            }
        )
    except UndecodableError:
        raise
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise UndecodableError(f"envelope: {first['loc']}: {first['msg']}") from None
    except KeyError as error:
        raise UndecodableError(f"envelope: it has no {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise UndecodableError(f"envelope: {error}") from None
    if raw.get("subject") != event.workspace:
        raise UndecodableError("envelope: subject is not the workspace of the data")
    return envelope
