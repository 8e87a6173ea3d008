"""The market's machines: a fixed cast, with prices and speeds that a seed shuffles a little.

A larger market has the same cast several times over.
"""

from dataclasses import dataclass
from random import Random


@dataclass(slots=True, kw_only=True)
class Slot:
    """One rentable slice of a market machine. Prices are US dollars an hour without the disk.

    ``ask_id`` is good for one rental: it changes when the slot is listed again. ``address`` is the
    machine's own, the same for everything that ever runs on it.
    """

    ask_id: int
    machine_id: int
    host_id: int
    address: str
    place: str
    gpu_name: str
    gpu_ram: int
    num_gpus: int
    on_demand: float
    min_bid: float
    reliability: float
    verification: str
    inet_down: float
    inet_up: float
    cpu_cores: int
    cpu_ram: int
    disk_space: float
    dlperf: float
    direct_port_count: int
    hosting_type: int
    storage_cost: float = 0.15
    taken: bool = False

    @property
    def country(self) -> str:
        """Two capital letters."""
        return self.place[-2:]


_CAST: tuple[tuple[str, str, int, float, str], ...] = (
    # place, GPU, MiB per GPU, on-demand $/h, standing: "" is verified and reliable
    ("Bangkok, TH", "RTX 4090", 24564, 0.42, ""),
    ("Bangkok, TH", "RTX 3090", 24576, 0.30, ""),
    ("Chiang Mai, TH", "RTX 3060", 12288, 0.24, ""),
    ("Bangkok, TH", "RTX 4070", 12282, 0.27, "unverified"),
    ("Ho Chi Minh City, VN", "RTX 4090", 24564, 0.40, ""),
    ("Hanoi, VN", "RTX 3080", 10240, 0.25, ""),
    ("Da Nang, VN", "RTX 3070", 8192, 0.22, ""),
    ("Hanoi, VN", "RTX 3090", 24576, 0.28, "unreliable"),
    ("Tokyo, JP", "RTX 4090", 24564, 0.46, ""),
    ("Osaka, JP", "RTX A5000", 24564, 0.38, ""),
    ("Tokyo, JP", "A100 SXM4", 81920, 0.90, ""),
    ("Osaka, JP", "RTX 3060", 12288, 0.23, "deverified"),
    ("Frankfurt, DE", "RTX 4090", 24564, 0.48, ""),
    ("Berlin, DE", "RTX 3090", 24576, 0.33, ""),
    ("Munich, DE", "L40S", 46068, 0.72, ""),
    ("Frankfurt, DE", "A100 PCIE", 40960, 0.78, "unreliable"),
    ("Paris, FR", "RTX 4080", 16376, 0.39, ""),
    ("Lyon, FR", "RTX A6000", 49140, 0.58, ""),
    ("Paris, FR", "RTX 3070", 8192, 0.21, "unverified"),
    ("Texas, US", "RTX 4090", 24564, 0.37, ""),
    ("California, US", "H100 PCIE", 81559, 0.90, ""),
    ("Oregon, US", "RTX 3090", 24576, 0.24, ""),
    ("Warsaw, PL", "RTX 3080", 10240, 0.26, ""),
    ("Stockholm, SE", "RTX A4000", 16376, 0.29, ""),
)

_SPEED = {"RTX 4090": 95.0, "A100 SXM4": 130.0, "A100 PCIE": 110.0, "H100 PCIE": 190.0}


def slots(seed: int, addresses: list[str]) -> list[Slot]:
    """The catalogue of ``seed``; ``addresses`` gives each market machine its own."""
    random = Random(seed)  # noqa: S311
    return [_slot(random, n, address) for n, address in enumerate(addresses)]


def _slot(random: Random, n: int, address: str) -> Slot:
    place, gpu_name, gpu_ram, base, standing = _CAST[n % len(_CAST)]
    on_demand = round(min(0.9, max(0.2, base * random.uniform(0.95, 1.05))), 3)
    reliable = standing != "unreliable"
    return Slot(
        ask_id=30_100_000 + n * 10 + 1,
        machine_id=51_001 + n,
        host_id=7_001 + n // 2 * 2 % 17,
        address=address,
        place=place,
        gpu_name=gpu_name,
        gpu_ram=gpu_ram,
        num_gpus=1,
        on_demand=on_demand,
        min_bid=round(max(0.15, on_demand * random.uniform(0.6, 0.75)), 3),
        reliability=round(random.uniform(0.985, 0.999) if reliable else 0.62, 3),
        verification=standing if standing.endswith("verified") else "verified",
        inet_down=round(random.uniform(350, 950), 1),
        inet_up=round(random.uniform(250, 700), 1),
        cpu_cores=random.choice((16, 32, 64)),
        cpu_ram=random.choice((64_400, 128_800, 257_600)),
        disk_space=round(random.uniform(200, 900), 1),
        dlperf=round(_SPEED.get(gpu_name, 45.0) * random.uniform(0.95, 1.05), 1),
        direct_port_count=random.choice((16, 62, 250)),
        hosting_type=int(n % 5 == 0),
    )
