"""Searching the market, as the service does it: filters, order, and never more than 64 rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from simulator import query
from simulator.catalogue import Slot
from simulator.query import QueryError
from simulator.vast.contract import offer_row

MOST_ROWS = 64
_OPTIONS = frozenset(
    [
        "order",
        "type",
        "limit",
        "allocated_storage",
        "disable_bundling",
        "target_reliability",
        "extra_ids",
    ]
)
_KINDS = {"bid": "bid", "on-demand": "on-demand", "ondemand": "on-demand", "reserved": "reserved"}


def search(slots: Iterable[Slot], body: Mapping[str, Any], now: float) -> list[dict[str, Any]]:
    """The rows that ``body`` asks for. Raises QueryError."""
    kind = _KINDS.get(str(body.get("type", "on-demand")))
    if kind is None:
        raise QueryError(f"type {body.get('type')!r} is not one of bid, on-demand, reserved")
    storage = _number(body, "allocated_storage", 8.0)
    limit = int(_number(body, "limit", MOST_ROWS))
    rows = [offer_row(slot, kind=kind, allocated_storage=storage, now=now) for slot in slots]
    filters = {name: tests for name, tests in body.items() if name not in _OPTIONS}
    found = [row for row in rows if not row["rented"] and _matches(row, filters)]
    chosen = query.ordered(found, _order(body.get("order", [["score", "desc"]])))
    return [dict(row) for row in chosen[: max(0, min(limit, MOST_ROWS))]]


def _number(body: Mapping[str, Any], name: str, default: float) -> float:
    try:
        return default if body.get(name) is None else float(body[name])
    except (TypeError, ValueError) as error:
        raise QueryError(f"{name} must be a number, not {body[name]!r}") from error


def _matches(row: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    """The filter knows some fields that no row has, and a region only by its two letters."""
    seen = dict(row)
    seen["id"] = None
    seen["geolocation"] = str(row["geolocation"])[-2:]
    seen["verified"] = row["verification"] == "verified"
    seen["datacenter"] = row["hosting_type"] == 1
    seen["gpu_totalram"] = row["gpu_total_ram"]
    seen["driver_version"] = row["driver_vers"]
    return query.matches(seen, filters)


def _order(order: object) -> list[tuple[str, str]]:
    if not isinstance(order, list) or not all(
        isinstance(one, list) and len(one) == 2 and one[1] in ("asc", "desc") for one in order
    ):
        raise QueryError(f"order must be a list of [field, 'asc' or 'desc'], not {order!r}")
    return [(str(field), str(direction)) for field, direction in order]
