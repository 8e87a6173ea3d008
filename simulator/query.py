"""Vast's query language: ``{"field": {"gte": 3}}`` filters and ``[["field", "asc"]]`` orders.

The official CLI sends most numbers and some booleans as strings, so operands are read in the type
of the value that they meet.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


class QueryError(Exception):
    """The query is not in the language; the text says which part."""


def _number(text: object) -> float | None:
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _truth(text: object) -> bool | None:
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(
        str(text).lower()
    )


def _alike(value: object, operand: object) -> object:
    """The operand in the type of the row's value; None when it cannot be read so."""
    if isinstance(value, bool):
        return _truth(operand)
    if isinstance(value, int | float):
        return _number(operand)
    return operand if operand is None else str(operand)


def _equal(value: object, operand: object) -> bool:
    if value is None:
        return operand is None
    return bool(value == _alike(value, operand))


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[object, object], bool]:
    def compare(value: object, operand: object) -> bool:
        like = _alike(value, operand)
        return value is not None and like is not None and test(value, like)

    return compare


def _among(value: object, operand: object) -> bool:
    if not isinstance(operand, list | tuple):
        raise QueryError(f"operator 'in' wants a list, not {operand!r}")
    return any(_equal(value, one) for one in operand)


_OPERATORS: Mapping[str, Callable[[object, object], bool]] = {
    "eq": _equal,
    "neq": lambda value, operand: value is not None and not _equal(value, operand),
    "gt": _compare(lambda a, b: a > b),
    "gte": _compare(lambda a, b: a >= b),
    "lt": _compare(lambda a, b: a < b),
    "lte": _compare(lambda a, b: a <= b),
    "in": _among,
    "notin": lambda value, operand: value is not None and not _among(value, operand),
}


def matches(row: Row, filters: Mapping[str, Any]) -> bool:
    """Whether ``row`` meets every filter. Raises QueryError for an operator that does not exist."""
    return all(
        _operator(name)(row.get(field), operand)
        for field, tests in filters.items()
        for name, operand in _tests(field, tests)
    )


def _tests(field: str, tests: object) -> Iterable[tuple[str, object]]:
    if not isinstance(tests, Mapping):
        raise QueryError(f"filter on {field!r} must be an object of operators, not {tests!r}")
    return tests.items()


def _operator(name: str) -> Callable[[object, object], bool]:
    if name not in _OPERATORS:
        raise QueryError(f"{name!r} is not a valid operator")
    return _OPERATORS[name]


def ordered(rows: Iterable[Row], order: Sequence[tuple[str, str]]) -> list[Row]:
    """The rows sorted by each (field, "asc" or "desc"), the first one weighing most; nulls last."""
    result = list(rows)
    for field, direction in reversed(order):
        known = [row for row in result if row.get(field) is not None]
        known.sort(key=lambda row: _sortable(row[field]), reverse=direction == "desc")
        result = known + [row for row in result if row.get(field) is None]
    return result


def _sortable(value: object) -> tuple[int, float, str]:
    number = _number(value)
    return (0, number, "") if number is not None else (1, 0.0, str(value))
