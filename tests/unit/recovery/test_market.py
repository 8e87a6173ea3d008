"""Which offer recovery takes, what it bids and how it explains it."""

from dataclasses import replace

import pytest

from services.recovery.domain.market import bid_for, choose, countries, within_limits
from services.recovery.domain.world import Offer
from shared.policy import Policy
from tests.support.faults import fault

POLICY = Policy(gpu_price_max=0.50, gpu_ram_min_gb=8)
NOBODY: frozenset[str] = frozenset()


def offer(id_: str, country: str = "TH", price: float = 0.20, **fields: object) -> Offer:
    plain = Offer(
        id=id_,
        market_machine=f"m{id_}",
        owner="h1",
        gpu_name="RTX 4090",
        gpu_count=1,
        gpu_ram_gb=24.6,
        price_per_hour=price,
        bid_min=round(price - 0.01, 4),
        reliability=0.99,
        country=country,
        down_mbps=800,
        up_mbps=600,
        direct_ports=60,
        verified=True,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def chosen(*offers: Offer, policy: Policy = POLICY, exclude: frozenset[str] = NOBODY) -> str | None:
    choice = choose(offers, policy, exclude)
    return choice.offer.id if choice else None


def test_the_cheapest_offer_in_a_preferred_region_is_taken() -> None:
    assert chosen(offer("1", "US", 0.10), offer("2", "TH", 0.30), offer("3", "VN", 0.25)) == "3"


def test_eu_means_its_countries() -> None:
    assert {"DE", "IE", "FR"} <= countries(["EU"])
    assert not {"RU", "BY", "EU"} & countries(["EU"])
    policy = Policy(regions=("EU",))
    assert chosen(offer("1", "US", 0.10), offer("2", "IE", 0.30), policy=policy) == "2"


def test_an_offer_elsewhere_is_taken_when_regions_are_only_preferred() -> None:
    assert chosen(offer("1", "US")) == "1"
    assert chosen(offer("1", ""), policy=Policy(regions=())) == "1"


def test_no_offer_elsewhere_is_taken_when_regions_are_strict() -> None:
    policy = replace(POLICY, regions_strict=True)
    assert chosen(offer("1", "US"), offer("2", ""), policy=policy) is None


def test_an_unreliable_machine_is_taken_only_when_nothing_better_fits() -> None:
    shaky = offer("1", price=0.10, reliability=0.70)
    assert chosen(shaky, offer("2", price=0.30)) == "2"
    assert chosen(shaky) == "1"


@fault(63)
def test_machines_that_failed_us_are_left_out() -> None:
    assert chosen(offer("1"), offer("2", price=0.4), exclude=frozenset({"m1"})) == "2"
    assert chosen(offer("1"), exclude=frozenset({"m1"})) is None


@fault(61)
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"price_per_hour": 0.51}, "over the price"),
        ({"gpu_ram_gb": 7.9}, "too little GPU memory"),
        ({"direct_ports": 0}, "without a direct port"),
        ({"verified": False}, "not verified"),
    ],
)
def test_an_offer_beyond_a_limit_is_refused_whatever_the_market_filtered(
    wrong: dict[str, object], why: str
) -> None:
    bad = replace(offer("1"), **wrong)  # type: ignore[arg-type]
    assert within_limits(bad, POLICY) == why
    assert chosen(bad) is None


def test_an_empty_market_gives_no_choice() -> None:
    assert choose([], POLICY, NOBODY) is None


def test_a_bid_is_the_floor_with_a_margin() -> None:
    assert bid_for(offer("1", price=0.21, bid_min=0.20), POLICY) == 0.24


@fault(61, 62)
@pytest.mark.parametrize("price", [0.01, 0.10, 0.3333, 0.42, 0.4999, 0.50])
@pytest.mark.parametrize("disk", [0.0, 0.0067, 0.009])
def test_a_bid_with_its_disk_is_never_over_the_maximum_nor_under_the_floor(
    price: float, disk: float
) -> None:
    candidate = offer("1", price=price, bid_min=price - disk)
    bid = bid_for(candidate, POLICY)
    assert bid >= candidate.bid_min
    assert bid + disk <= POLICY.gpu_price_max + 1e-9


def test_the_choice_is_explained_with_what_was_left_out() -> None:
    choice = choose(
        [offer("1"), offer("2", price=0.3), offer("3", "US", 0.1), offer("4", price=0.9)],
        POLICY,
        NOBODY,
    )
    assert choice is not None
    assert choice.seen == 4
    assert choice.why == (
        "1x RTX 4090 in TH at 0.200 $/h: the cheapest of 2 like it, reliability 99.0%; "
        "3 of 4 offers fit (1 over the price)"
    )


def test_a_choice_outside_the_preferred_regions_says_so() -> None:
    choice = choose([offer("1", "US")], POLICY, NOBODY)
    assert choice is not None
    assert "in US (none fits in TH, VN, JP, EU)" in choice.why
    assert "the only fit" in choice.why
