"""What a tenant asks for in a create, read as the service reads it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_RUNTYPES = frozenset(
    [
        "ssh",
        "ssh_direc",
        "ssh_direct",
        "ssh_proxy",
        "jupyter",
        "jupyter_direc",
        "jupyter_direct",
        "jupyter_proxy",
        "args",
    ]
)


class OrderError(Exception):
    """The body is not an order; ``code`` is the API's word for it."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"error 400/3471: Invalid args: {text}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A valid create. ``price`` is the bid in $/h, None on demand; ``disk`` is in GB."""

    image: str
    price: float | None
    disk: float
    label: str
    env: dict[str, str]
    onstart: str | None
    runtype: str
    cancel_unavail: bool


def read_order(body: object) -> Order:
    """Check a create's body. Raises OrderError with the first thing that is wrong."""
    if not isinstance(body, Mapping):
        raise OrderError("invalid_args", "the body must be a JSON object")
    return Order(
        image=_text(body, "image", 1024, required=True),
        price=_price(body.get("price")),
        disk=_disk(body.get("disk")),
        label=_text(body, "label", 256),
        env=_env(body.get("env")),
        onstart=_text(body, "onstart", 4096) or None,
        runtype=_runtype(body.get("runtype")),
        cancel_unavail=bool(body.get("cancel_unavail")),
    )


def _text(body: Mapping[str, Any], name: str, most: int, *, required: bool = False) -> str:
    value = body.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise OrderError("invalid_args", f"{name} must be text")
    if len(value) > most:
        raise OrderError("invalid_args", f"{name} is longer than {most} characters")
    return value


def price_of(value: object) -> float:
    """A price in $/h. Raises OrderError outside 0.001 to 128."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise OrderError("invalid_price", f"price {value!r} is not a number")
    if not 0.001 <= value <= 128:
        raise OrderError("invalid_price", f"price {value} is not within 0.001 and 128")
    return float(value)


def _price(value: object) -> float | None:
    return None if value is None else price_of(value)


def _disk(value: object) -> float:
    if value is None:
        return 10.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 8:
        raise OrderError("invalid_args", f"disk {value!r} is not a number of GB from 8 up")
    return float(value)


def _env(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OrderError("invalid_args", "env must be an object")
    if any(len(str(part)) > 256 for pair in value.items() for part in pair):
        raise OrderError("invalid_args", "an env name or value is longer than 256 characters")
    return {str(name): str(text) for name, text in value.items()}


def _runtype(value: object) -> str:
    if value is None:
        return "ssh"
    words = str(value).split()
    if not words or not set(words) <= _RUNTYPES:
        raise OrderError("invalid_args", f"runtype {value!r} is unknown")
    return str(value)
