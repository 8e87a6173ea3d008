"""The v1 list of instances: filters, order, columns and pages of at most 25."""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from simulator import query
from simulator.vast.access import failure

MOST_ROWS = 25
ROWS_UNASKED = 5
_STORED = frozenset(
    [
        "id",
        "label",
        "actual_status",
        "intended_status",
        "cur_state",
        "next_state",
        "gpu_name",
        "verification",
        "machine_id",
        "host_id",
        "image_uuid",
        "start_date",
        "disk_space",
        "geolocation",
    ]
)


def page(rows: Sequence[dict[str, Any]], params: Mapping[str, str]) -> dict[str, Any]:
    """The answer to a list request. Raises ApiError for a parameter that cannot be read."""
    filters = _json(params, "select_filters", {})
    order = _json(params, "order_by", [{"col": "id", "dir": "asc"}])
    columns = _json(params, "select_cols", None)
    for name in [*filters, *(one["col"] for one in order)]:
        if name not in _STORED:
            text = f"Error in query parameters: {name} is not a valid search key"
            raise failure(400, "invalid_request", text)
    try:
        found = [row for row in rows if query.matches(row, filters)]
    except query.QueryError as error:
        raise failure(400, "invalid_request", f"Error in query parameters: {error}") from error
    found = [dict(row) for row in query.ordered(found, [(one["col"], one["dir"]) for one in order])]
    begin, limit = _begin(params.get("after_token")), _limit(params.get("limit"))
    chosen = found[begin : begin + limit]
    more = begin + limit < len(found)
    return {
        "success": True,
        "instances_found": len(found),
        "total_instances": len(rows),
        "label_counts": dict(Counter(row["label"] or "" for row in found)),
        "next_token": _token(begin + limit) if more else None,
        "instances": [_columns(row, columns) for row in chosen],
    }


def _json(params: Mapping[str, str], name: str, default: Any) -> Any:
    text = params.get(name)
    if text is None:
        return default
    try:
        value = json.loads(text)
    except ValueError as error:
        raise failure(400, "invalid_request", f"Error in query parameters: {name}") from error
    if default is not None and not isinstance(value, type(default)):
        raise failure(400, "invalid_request", f"Error in query parameters: {name}")
    return value


def _limit(text: str | None) -> int:
    try:
        asked = int(text or 0)
    except ValueError as error:
        raise failure(400, "invalid_request", "Error in query parameters: limit") from error
    return ROWS_UNASKED if asked <= 0 else min(asked, MOST_ROWS)


def _token(begin: int) -> str:
    return base64.urlsafe_b64encode(f"after:{begin}".encode()).decode()


def _begin(token: str | None) -> int:
    if not token:
        return 0
    try:
        word, _, number = base64.urlsafe_b64decode(token).decode().partition(":")
        if word == "after":
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise failure(400, "invalid_token", "after_token is not a token of this list")


def _columns(row: dict[str, Any], columns: list[str] | None) -> dict[str, Any]:
    return row if columns is None else {name: row.get(name) for name in columns}
