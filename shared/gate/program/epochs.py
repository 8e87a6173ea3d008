"""The epoch file of this host: the fence that no service and no network can be asked about."""

from __future__ import annotations

from .layout import EPOCH
from .refusals import Refusal


def read_epoch() -> int:
    """The epoch of this host. Raises Refusal ``not-installed``."""
    try:
        with open(EPOCH, encoding="ascii") as file:
            return int(file.read())
    except (FileNotFoundError, ValueError):
        raise Refusal(
            "not-installed", f"{EPOCH} holds no epoch", "prepare this host again"
        ) from None


def demand_epoch(epoch: int) -> None:
    """Raises Refusal ``stale-epoch`` unless ``epoch`` is the one of this host; call it locked."""
    if (current := read_epoch()) != epoch:
        raise stale(epoch, current)


def demand_not_over(epoch: int) -> None:
    """Raises Refusal ``stale-epoch`` if this host is beyond ``epoch``; call it locked."""
    if (current := read_epoch()) > epoch:
        raise stale(epoch, current)


def stale(epoch: int, current: int) -> Refusal:
    return Refusal("stale-epoch", f"this session has epoch {epoch}, the host is at epoch {current}")
