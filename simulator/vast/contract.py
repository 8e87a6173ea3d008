"""What somebody rented on the market, and how its states read in the API."""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from simulator.catalogue import Slot
from simulator.machine import Machine

Form = Literal["A", "B"]
HOURS_PER_MONTH = 720.0


@dataclass(slots=True, kw_only=True)
class Contract:
    """One instance. ``bid`` is None on demand; money is US dollars an hour.

    The four states are those of the API: what the host last reported, what is intended, what the
    contract is in, and where it is going.
    """

    id: int
    slot: Slot
    machine: Machine
    address: str
    port: int
    label: str
    image: str
    env: dict[str, str]
    onstart: str | None
    runtype: str
    disk: float
    bid: float | None
    keys: dict[int, str]
    created_at: float
    api_key: str
    floor: float
    """The lowest bid that runs here now."""
    sshd: bool = True
    actual: str | None = None
    intended: str = "running"
    current: str = "running"
    next: str = "running"
    message: str | None = None
    shown_from: float = float("inf")
    """When the single GET begins to show it."""
    started_at: float | None = None
    ending: bool = False
    boot: asyncio.Task[None] | None = None

    @property
    def price(self) -> float:
        """What an hour of running costs, without the disk."""
        return self.slot.on_demand if self.bid is None else self.bid

    @property
    def storage_price(self) -> float:
        """What an hour of the disk costs."""
        return self.disk * self.slot.storage_cost / HOURS_PER_MONTH

    @property
    def outbid(self) -> bool:
        """Whether somebody pays more than its bid."""
        return self.bid is not None and self.floor > self.bid

    def enter(
        self, actual: str | None, *, intended: str, current: str, next: str | None = None
    ) -> None:
        """Take on a row of states."""
        self.actual, self.intended, self.current = actual, intended, current
        self.next = current if next is None else next


def offer_row(slot: Slot, *, kind: str, allocated_storage: float, now: float) -> dict[str, Any]:
    """One row of a search; ``kind`` is ``bid`` or ``on-demand``."""
    base = slot.min_bid if kind == "bid" else slot.on_demand
    storage = allocated_storage * slot.storage_cost / HOURS_PER_MONTH
    total = base + storage
    return _hardware(slot) | {
        "id": slot.ask_id,
        "ask_contract_id": slot.ask_id,
        "gpu_total_ram": slot.gpu_ram * slot.num_gpus,
        "is_bid": kind == "bid",
        "min_bid": slot.min_bid,
        "dph_base": base,
        "dph_total": total,
        "dph_total_adj": total,
        "discounted_dph_total": total,
        "discount_rate": 0.0,
        "storage_total_cost": storage,
        "dlperf_per_dphtotal": slot.dlperf / total,
        "flops_per_dphtotal": slot.dlperf * 0.87 / total,
        "score": round(slot.dlperf / total * slot.reliability, 3),
        "public_ipaddr": slot.address,
        "rentable": not slot.taken,
        "rented": slot.taken,
        "duration": 2_591_000.0,
        "start_date": now,
        "end_date": now + 2_591_000.0,
        "search": _prices(base, storage),
        "instance": _prices(base, storage),
        "hostname": None,
        "rn": 1,
        "resource_type": "gpu",
        "vms_enabled": False,
        "cluster_id": None,
    }


def instance_row(contract: Contract, now: float) -> dict[str, Any]:
    """One instance as the list and the single GET show it."""
    slot = contract.slot
    running = contract.actual == "running"
    storage = contract.storage_price
    started = contract.started_at or contract.created_at
    return (
        _hardware(slot)
        | _states(contract)
        | {
            "id": contract.id,
            "label": contract.label or None,
            "image_uuid": contract.image,
            "image_args": [],
            "image_runtype": contract.runtype,
            "extra_env": [[name, value] for name, value in contract.env.items()],
            "onstart": contract.onstart,
            "jupyter_token": "",
            "ssh_host": "ssh7.vast.ai",
            "ssh_port": 30_000 + contract.id % 1000,
            "ssh_idx": "7",
            "public_ipaddr": f"{contract.address}\n",
            "local_ipaddrs": "10.1.2.3 ",
            "ports": _ports(contract) if contract.actual in ("running", "offline") else {},
            "direct_port_start": -1,
            "direct_port_end": -1,
            "machine_dir_ssh_port": 40_000,
            "gpu_totalram": slot.gpu_ram * slot.num_gpus,
            "gpu_util": 37.0 if running else None,
            "gpu_temp": 61.0 if running else None,
            "cpu_util": 3.0,
            "mem_usage": 2.1,
            "mem_limit": 62.0,
            "vmem_usage": 8.0,
            "disk_space": contract.disk,
            "disk_usage": 3.4,
            "disk_util": 0.11,
            "is_bid": contract.bid is not None,
            "min_bid": contract.floor,
            "dph_base": contract.price,
            "dph_total": contract.price + storage,
            "storage_total_cost": storage,
            "search": _prices(contract.price, storage),
            "instance": _prices(contract.price if running else 0.0, storage),
            "start_date": contract.created_at,
            "end_date": contract.created_at + 2_590_000.0,
            "duration": contract.created_at + 2_590_000.0 - now,
            "uptime_mins": (now - started) / 60.0 if running else None,
            "client_run_time": 1.0,
            "host_run_time": 2_590_000.0,
            "country_code": slot.country,
            "template_id": None,
            "template_hash_id": None,
            "template_name": None,
            "volume_info": [],
            "rentable": False,
        }
    )


def _states(contract: Contract) -> dict[str, Any]:
    return {
        "actual_status": contract.actual,
        "intended_status": contract.intended,
        "cur_state": contract.current,
        "next_state": contract.next,
        "status_msg": contract.message,
    }


def _ports(contract: Contract) -> dict[str, list[dict[str, str]]]:
    port = str(contract.port)
    return {
        "22/tcp": [{"HostIp": "0.0.0.0", "HostPort": port}, {"HostIp": "::", "HostPort": port}]  # noqa: S104
    }


def _prices(base: float, storage: float) -> dict[str, float]:
    return {
        "gpuCostPerHour": base,
        "diskHour": storage,
        "totalHour": base + storage,
        "discountTotalHour": 0.0,
        "discountedTotalPerHour": base + storage,
    }


def _hardware(slot: Slot) -> dict[str, Any]:
    return {
        "bundle_id": 990_000 + slot.machine_id % 1000,
        "machine_id": slot.machine_id,
        "host_id": slot.host_id,
        "num_gpus": slot.num_gpus,
        "gpu_name": slot.gpu_name,
        "gpu_ram": slot.gpu_ram,
        "gpu_frac": 0.25,
        "gpu_arch": "nvidia",
        "gpu_lanes": 16,
        "gpu_mem_bw": 890.2,
        "gpu_max_power": 450.0,
        "gpu_max_temp": 90.0,
        "gpu_display_active": False,
        "gpu_ids": [0],
        "compute_cap": 890,
        "cuda_max_good": 12.8,
        "driver_version": "570.86.15",
        "driver_vers": 570_086_015,
        "bw_nvlink": 0.0,
        "pci_gen": 4.0,
        "pcie_bw": 24.1,
        "cpu_name": "Example EPYC",
        "cpu_arch": "amd64",
        "cpu_cores": slot.cpu_cores,
        "cpu_cores_effective": slot.cpu_cores / 4,
        "cpu_ghz": 3.4,
        "cpu_ram": slot.cpu_ram,
        "has_avx": 1,
        "mobo_name": "X1",
        "os_version": "22.04",
        "disk_name": "nvme0",
        "disk_space": slot.disk_space,
        "disk_bw": 3100.0,
        "inet_up": slot.inet_up,
        "inet_down": slot.inet_down,
        "inet_up_cost": 0.003,
        "inet_down_cost": 0.002,
        "direct_port_count": slot.direct_port_count,
        "static_ip": True,
        "storage_cost": slot.storage_cost,
        "dlperf": slot.dlperf,
        "total_flops": round(slot.dlperf * 0.87, 1),
        "reliability": slot.reliability,
        "reliability2": slot.reliability,
        "reliability_mult": 0.97,
        "expected_reliability": slot.reliability,
        "verification": slot.verification,
        "vericode": int(slot.verification == "verified"),
        "hosting_type": slot.hosting_type,
        "external": False,
        "geolocation": slot.place,
        "geolocode": 123_456,
        "time_remaining": "",
        "logo": "",
        "webpage": None,
    }
