"""What the clouds bill, kept apart from the product so that it can judge the product.

Running time is billed by the second at the price of the moment; storage from creation to the end,
also while stopped. All times are seconds since the epoch, all money US dollars.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Cause = Literal["rented", "market_resumed"]
Kind = Literal["gpu", "standby"]


@dataclass(slots=True, kw_only=True)
class Interval:
    """A stretch of running time; ``ended`` is None while it runs."""

    began: float
    ended: float | None = None
    cause: Cause
    usd_per_hour: float

    def usd(self, now: float) -> float:
        """What it cost so far."""
        ended = now if self.ended is None else self.ended
        return max(0.0, ended - self.began) / 3600.0 * self.usd_per_hour


@dataclass(slots=True, kw_only=True)
class Account:
    """One rented machine, from creation on."""

    provider: str
    id: str
    label: str
    kind: Kind
    created_at: float
    storage_usd_per_hour: float
    destroyed_at: float | None = None
    intervals: list[Interval] = field(default_factory=list)

    def open(self) -> Interval | None:
        """The interval that runs now."""
        if self.intervals and self.intervals[-1].ended is None:
            return self.intervals[-1]
        return None

    def running_usd(self, now: float) -> float:
        """The price of its running time."""
        return sum(interval.usd(now) for interval in self.intervals)

    def storage_usd(self, now: float) -> float:
        """The price of its disk."""
        ended = now if self.destroyed_at is None else self.destroyed_at
        return max(0.0, ended - self.created_at) / 3600.0 * self.storage_usd_per_hour


class Ledger:
    """Every machine ever rented here."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], Account] = {}

    def create(self, account: Account) -> None:
        """A machine was rented: its storage is billed from now on."""
        self._accounts[account.provider, account.id] = account

    def relabel(self, provider: str, id: str, label: str) -> None:
        """The tenant changed its label."""
        self._accounts[provider, id].label = label

    def run(self, provider: str, id: str, *, at: float, cause: Cause, usd_per_hour: float) -> None:
        """It runs from now on, unless it does already."""
        account = self._accounts[provider, id]
        if account.open() is None:
            account.intervals.append(Interval(began=at, cause=cause, usd_per_hour=usd_per_hour))

    def halt(self, provider: str, id: str, *, at: float) -> None:
        """It does not run any more, if it did."""
        interval = self._accounts[provider, id].open()
        if interval is not None:
            interval.ended = at

    def reprice(self, provider: str, id: str, *, at: float, usd_per_hour: float) -> None:
        """The price of running changed: what ran so far keeps its old price."""
        interval = self._accounts[provider, id].open()
        if interval is not None:
            self.halt(provider, id, at=at)
            self.run(provider, id, at=at, cause=interval.cause, usd_per_hour=usd_per_hour)

    def destroy(self, provider: str, id: str, *, at: float) -> None:
        """It is gone: nothing is billed any more."""
        self.halt(provider, id, at=at)
        self._accounts[provider, id].destroyed_at = at

    def spent(self, provider: str, now: float) -> float:
        """Everything that one provider billed so far, storage included."""
        return sum(
            account.running_usd(now) + account.storage_usd(now)
            for account in self._accounts.values()
            if account.provider == provider
        )

    def report(self, now: float) -> dict[str, Any]:
        """The whole ledger as JSON; ``total_usd`` is running time, ``storage_usd`` beside it."""
        accounts = list(self._accounts.values())
        return {
            "now": now,
            "instances": [_account_json(account, now) for account in accounts],
            "gpus_billed_now": sum(
                account.kind == "gpu" and account.open() is not None for account in accounts
            ),
            "total_usd": sum(account.running_usd(now) for account in accounts),
            "storage_usd": sum(account.storage_usd(now) for account in accounts),
        }


def _account_json(account: Account, now: float) -> dict[str, Any]:
    return {
        "provider": account.provider,
        "id": account.id,
        "label": account.label,
        "kind": account.kind,
        "created_at": account.created_at,
        "destroyed_at": account.destroyed_at,
        "running_usd": account.running_usd(now),
        "storage_usd": account.storage_usd(now),
        "intervals": [
            {
                "from": interval.began,
                "to": interval.ended,
                "cause": interval.cause,
                "usd_per_hour": interval.usd_per_hour,
            }
            for interval in account.intervals
        ],
    }
