"""The events as an AsyncAPI 3 document: what other tooling may hear, read off the catalogue."""

from typing import Any

from pydantic import TypeAdapter

from shared.codec import TYPE_PREFIX
from shared.events import EVENTS, SPEAKER
from shared.events.base import Event

Json = dict[str, Any]

_REFERENCE = "#/components/schemas/{model}"

_ABOUT = """\
The log of Dumont Failover as it is published: stream DUMONT_EVENTS, in log order, each event once
with its position. A subscriber that was away goes on after the last position that it saw; what the
stream no longer holds is at GET /v1/events.
"""


def document(version: str) -> Json:
    """The whole catalogue; every event has a channel, a message and a schema."""
    schemas: Json = {}
    messages = {name: _message(kind, schemas) for name, kind in EVENTS.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Dumont Failover", "version": version, "description": _ABOUT},
        "defaultContentType": "application/cloudevents+json",
        "channels": {name: _channel(name) for name in EVENTS},
        "operations": {
            f"say{name}": {"action": "send", "channel": {"$ref": f"#/channels/{name}"}}
            for name in EVENTS
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _channel(name: str) -> Json:
    return {
        "address": f"dumont.events.{{workspace}}.{name}",
        "parameters": {"workspace": {"description": "the name of the workspace"}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }


def _message(kind: type[Event], schemas: Json) -> Json:
    data = TypeAdapter(kind).json_schema(ref_template=_REFERENCE)
    schemas.update(data.pop("$defs", {}))
    schemas[kind.type] = data
    return {
        "name": f"{TYPE_PREFIX}{kind.type}.v{kind.version}",
        "summary": (kind.__doc__ or "").strip().partition("\n")[0],
        "payload": _cloudevent(kind),
    }


def _cloudevent(kind: type[Event]) -> Json:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "epoch", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": text | {"format": "uuid"},
            "source": {"const": f"/dumont/{SPEAKER[kind.type]}"},
            "type": {"const": f"{TYPE_PREFIX}{kind.type}.v{kind.version}"},
            "subject": text | {"description": "the workspace"},
            "time": text | {"format": "date-time"},
            "datacontenttype": {"const": "application/json"},
            "epoch": {"type": "integer"},
            "position": {"type": "integer", "description": "place in the log"},
            "correlationid": text | {"description": "the incident"},
            "causationid": text | {"description": "the event that led to it"},
            "data": {"$ref": _REFERENCE.format(model=kind.type)},
        },
    }
