"""Which offer to take. The market's own filters are not trusted: every limit is checked again."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor

from services.recovery.domain.world import Offer
from shared.policy import Policy

BID_MARGIN = 1.2
"""The floor is what is admitted, not what stays: we bid this much of it, within the maximum."""
RELIABILITY_GOOD = 0.95
"""Offers below it are taken only when there is nothing better."""
# fmt: off
EUROPE = frozenset([
    "AT", "BE", "BG", "HR", "CY", "CZ", "DK", "EE", "FI", "FR", "DE", "GR", "HU", "IE", "IT", "LV",
    "LT", "LU", "MT", "NL", "PL", "PT", "RO", "SK", "SI", "ES", "SE", "NO", "IS", "LI", "CH", "GB",
])
# fmt: on
"""What EU means in ``regions``: the union, and neighbours with the same rules and cables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The offer to rent, what to bid, why it was chosen, and how many offers were seen."""

    offer: Offer
    bid: float
    why: str
    seen: int


def countries(regions: Iterable[str]) -> frozenset[str]:
    """The country codes of a policy's regions, with EU spelled out."""
    return frozenset(
        code for region in regions for code in (EUROPE if region == "EU" else (region,))
    )


def within_limits(offer: Offer, policy: Policy) -> str | None:
    """Why the policy forbids this offer, in two or three words; None if it does not."""
    if offer.price_per_hour > policy.gpu_price_max:
        return "over the price"
    if offer.gpu_ram_gb < policy.gpu_ram_min_gb:
        return "too little GPU memory"
    if offer.direct_ports < 1:
        return "without a direct port"
    if not offer.verified:
        return "not verified"
    if policy.regions_strict and offer.country not in countries(policy.regions):
        return "outside the regions"
    return None


def bid_for(offer: Offer, policy: Policy) -> float:
    """The floor with a margin; together with the disk never more than the policy's maximum."""
    disk = max(0.0, offer.price_per_hour - offer.bid_min)
    most = max(offer.bid_min, policy.gpu_price_max - disk)
    return max(offer.bid_min, floor(min(offer.bid_min * BID_MARGIN, most) * 10_000) / 10_000)


def choose(offers: Sequence[Offer], policy: Policy, exclude: frozenset[str]) -> Choice | None:
    """The best offer that the policy allows, or None.

    ``exclude`` holds the ``market_machine`` names that already failed us. Preferred regions come
    first, then reliable machines, then the price.
    """
    refusals: Counter[str] = Counter()
    fitting: list[Offer] = []
    for offer in offers:
        refusal = within_limits(offer, policy)
        if refusal is None and offer.market_machine in exclude:
            refusal = "tried before"
        if refusal is None:
            fitting.append(offer)
        else:
            refusals[refusal] += 1
    if not fitting:
        return None
    preferred = countries(policy.regions)
    best = min(fitting, key=lambda offer: _rank(offer, preferred))
    why = _why(best, fitting, refusals, preferred, policy)
    return Choice(offer=best, bid=bid_for(best, policy), why=why, seen=len(offers))


def _rank(offer: Offer, preferred: frozenset[str]) -> tuple[bool, bool, float, float, str]:
    return (
        bool(preferred) and offer.country not in preferred,
        offer.reliability < RELIABILITY_GOOD,
        round(offer.price_per_hour, 4),
        -offer.reliability,
        offer.id,
    )


def _why(
    best: Offer,
    fitting: Sequence[Offer],
    refusals: Counter[str],
    preferred: frozenset[str],
    policy: Policy,
) -> str:
    where = f" in {best.country}" if best.country else ""
    if preferred and best.country not in preferred:
        where += f" (none fits in {', '.join(policy.regions)})"
    peers = [o for o in fitting if _rank(o, preferred)[:2] == _rank(best, preferred)[:2]]
    standing = "the only fit" if len(fitting) == 1 else f"the cheapest of {len(peers)} like it"
    if len(peers) == 1 < len(fitting):
        standing = "the only one preferred"
    text = (
        f"{best.gpu_count}x {best.gpu_name}{where} at {best.price_per_hour:.3f} $/h: {standing}, "
        f"reliability {best.reliability:.1%}; {len(fitting)} of "
        f"{len(fitting) + sum(refusals.values())} offers fit"
    )
    left_out = ", ".join(f"{count} {why}" for why, count in sorted(refusals.items()))
    return f"{text} ({left_out})" if left_out else text
