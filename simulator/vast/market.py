"""The market at work: renting, booting, outbidding, resuming, destroying.

Everything runs on one event loop. A contract's states change here alone, and always together with
its machine and its account in the ledger.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from simulator import image, tree
from simulator.catalogue import Slot
from simulator.faults import Fault, Faults
from simulator.ledger import Account, Cause, Ledger
from simulator.machine import BootError, Machine
from simulator.network import Network
from simulator.options import Options
from simulator.vast.contract import Contract, Form
from simulator.vast.order import Order

PROVIDER = "vast"
_RAISE = 1.25
"""By how much a competitor outbids."""


class RefusedError(Exception):
    """The market says no, with the status and the code that the API answers.

    ``contract`` is the id of an instance that exists all the same.
    """

    def __init__(self, status: int, code: str, text: str, contract: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.contract = contract


def _no_such_ask(ask_id: int, status: int = 404) -> RefusedError:
    if status == 404:
        text = f"error 404/3603: no_such_ask Instance type by id {ask_id} is not available."
        return RefusedError(404, "invalid_args", text)
    text = f"error {status}/3907: ask {ask_id} is no longer available"
    return RefusedError(status, "no_such_ask", text)


class Market:
    """All slots and all contracts of the one simulated account."""

    def __init__(
        self,
        *,
        options: Options,
        slots: list[Slot],
        network: Network,
        ledger: Ledger,
        faults: Faults,
        clock: Callable[[], float],
    ) -> None:
        self.slots = slots
        self.contracts: dict[int, Contract] = {}
        self.keys: dict[int, str] = {}
        self._options = options
        self._network = network
        self._ledger = ledger
        self._faults = faults
        self._clock = clock
        self._next_id = 27_000_000 + secrets.randbelow(900_000)
        self._next_ask = 30_200_001
        self._deposit = options.credit_usd

    # The account

    @property
    def credit(self) -> float:
        """Dollars left."""
        return self._deposit - self._ledger.spent(PROVIDER, self._clock())

    async def set_credit(self, usd: float) -> None:
        """Set the dollars left; at zero everything is stopped."""
        self._deposit = usd + self._ledger.spent(PROVIDER, self._clock())
        await self.stop_debtors()

    async def stop_debtors(self) -> None:
        """Stop every instance when there is no credit left."""
        if self.credit > 0:
            return
        for contract in list(self.contracts.values()):
            if contract.intended == "running":
                await self._halt(contract)
                contract.enter("exited", intended="stopped", current="stopped")

    def add_key(self, text: str) -> int:
        """Register a public key; new instances get it. Returns its id."""
        self._next_id += 1
        self.keys[self._next_id] = text
        return self._next_id

    # Renting

    async def rent(self, ask_id: int, order: Order) -> Contract:
        """Accept an ask. Raises RefusedError; one of them carries a contract that exists."""
        vanished = self._faults.take("offer-vanishes")
        if vanished is not None:
            self._withdraw(ask_id)
            raise _no_such_ask(ask_id, int(vanished.details.get("status", 404)))
        slot = next((one for one in self.slots if one.ask_id == ask_id and not one.taken), None)
        if slot is None:
            raise _no_such_ask(ask_id)
        self._check(slot, order)
        too_low = order.price is not None and order.price < slot.min_bid
        if too_low and order.cancel_unavail:
            raise _no_such_ask(ask_id, 410)
        contract = await self._sign(slot, order)
        if too_low:
            contract.enter(None, intended="stopped", current="stopped")
            text = "your bid is below the minimum: the instance is stopped"
            raise RefusedError(200, "no_such_ask", text, contract.id)
        self._begin(contract, "rented")
        return contract

    def _withdraw(self, ask_id: int) -> None:
        """Somebody else took it."""
        for slot in self.slots:
            if slot.ask_id == ask_id:
                slot.taken = True

    def _check(self, slot: Slot, order: Order) -> None:
        if self.credit <= 0:
            text = "Your account lacks credit; see the billing page."
            raise RefusedError(400, "insufficient_credit", text)
        if order.disk > slot.disk_space:
            text = f"error 400/3471: Invalid args: disk {order.disk} is more than the host has"
            raise RefusedError(400, "invalid_args", text)

    async def _sign(self, slot: Slot, order: Order) -> Contract:
        slot.taken = True
        self._next_id += 1
        id = self._next_id
        machine = Machine(
            f"C-{id}",
            self._directory(id),
            ended=lambda: self._container_ended(id),
        )
        contract = Contract(
            id=id,
            slot=slot,
            machine=machine,
            address=slot.address,
            port=self._network.port(slot.address),
            label=order.label,
            image=order.image,
            env=order.env,
            onstart=order.onstart,
            runtype=order.runtype,
            disk=order.disk,
            bid=order.price,
            keys=dict(self.keys),
            created_at=self._clock(),
            api_key=secrets.token_hex(16),
            floor=slot.min_bid,
            sshd=self._faults.take("ssh-never-comes") is None,
        )
        self.contracts[id] = contract
        self._ledger.create(
            Account(
                provider=PROVIDER,
                id=str(id),
                label=order.label,
                kind="gpu",
                created_at=contract.created_at,
                storage_usd_per_hour=contract.storage_price,
            )
        )
        await machine.build(root_login="prohibit-password")
        image.install_gpu(machine.root, name=slot.gpu_name, memory_mib=slot.gpu_ram)
        image.authorize(machine.root, "root", contract.keys.values())
        contract.shown_from = self._clock() + self._options.hidden_seconds
        return contract

    def _directory(self, id: int) -> Path:
        return self._options.directory / "machines" / f"{PROVIDER}-{id}"

    # Booting

    def _begin(self, contract: Contract, cause: Cause) -> None:
        """Boot in the background, through the states that a tenant sees on the way."""
        if contract.ending:
            raise RefusedError(409, "destroying", "the instance is being destroyed")
        fails = self._faults.take("boot-fails")
        outbid = self._faults.take("outbid-at-boot")
        contract.enter(contract.actual, intended="running", current="running")
        contract.boot = asyncio.create_task(self._boot(contract, cause, fails, outbid))

    async def _boot(
        self, contract: Contract, cause: Cause, fails: Fault | None, outbid: Fault | None
    ) -> None:
        slower = self._faults.take("boot-delay", provider=PROVIDER)
        seconds = self._options.boot_seconds + (slower.seconds() if slower else 0.0)
        await asyncio.sleep(seconds * 0.2)
        if contract.actual is None:
            contract.actual, contract.message = "created", f"Pulling {contract.image}"
            await asyncio.sleep(seconds * 0.3)
        contract.actual = "loading"
        await asyncio.sleep(seconds * 0.5)
        if fails is not None:
            text = str(fails.details.get("message", "OCI runtime create failed: no such image"))
            self._boot_failed(contract, text)
            return
        try:
            await self._power_on(contract)
        except (BootError, OSError) as error:
            self._boot_failed(contract, str(error))
            return
        self._now_running(contract, cause)
        if outbid is not None:
            contract.boot = None
            await self.outbid(contract, outbid.details.get("form", "A"))

    async def _power_on(self, contract: Contract) -> None:
        root = contract.machine.root
        script = None
        if contract.onstart:
            tree.write(root, "/root/onstart.sh", contract.onstart.encode())
            script = "/root/onstart.sh"
        await contract.machine.boot(
            address=contract.address,
            port=contract.port,
            environment=_container_environment(contract),
            script=script,
            sshd=contract.sshd,
        )

    def _now_running(self, contract: Contract, cause: Cause) -> None:
        now = self._clock()
        contract.enter("running", intended="running", current="running")
        contract.message = f"success, running {contract.image}"
        contract.started_at = now
        self._ledger.run(
            PROVIDER, str(contract.id), at=now, cause=cause, usd_per_hour=contract.price
        )

    def _boot_failed(self, contract: Contract, text: str) -> None:
        contract.enter(contract.actual, intended="stopped", current="stopped")
        contract.message = f"Error response from daemon: {text}"

    def _container_ended(self, id: int) -> None:
        contract = self.contracts.get(id)
        if contract is not None:
            contract.actual = "exited"
            self._ledger.halt(PROVIDER, str(id), at=self._clock())

    async def _halt(self, contract: Contract) -> None:
        """No power and no bill, whatever it was doing."""
        boot, contract.boot = contract.boot, None
        if boot is not None and not boot.done():
            boot.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await boot
        await contract.machine.halt()
        self._ledger.halt(PROVIDER, str(contract.id), at=self._clock())

    # What the tenant does

    async def start(self, contract: Contract) -> None:
        """Run again. Raises RefusedError when it is queued instead."""
        if contract.machine.running or _booting(contract):
            contract.enter(contract.actual, intended="running", current="running")
            return
        lost = contract.actual in ("offline", "unknown")
        if contract.outbid or lost or self._faults.take("start-queued"):
            actual = contract.actual or "stopped"
            contract.enter(actual, intended="running", current="scheduling", next="running")
            text = "Required resources are currently unavailable, state change queued."
            raise RefusedError(200, "resources_unavailable", text)
        self._begin(contract, "rented")

    async def stop(self, contract: Contract) -> None:
        """Stop it; its disk stays and is billed."""
        await self._halt(contract)
        contract.enter("exited", intended="stopped", current="stopped")

    async def change_bid(self, contract: Contract, price: float | None) -> None:
        """Bid another price; enough of it wakes what waits for resources."""
        if contract.bid is None:
            raise RefusedError(400, "invalid_args", "the instance is not interruptible")
        contract.bid = contract.floor * 1.1 if price is None else price
        self._ledger.reprice(
            PROVIDER, str(contract.id), at=self._clock(), usd_per_hour=contract.price
        )
        waits = contract.intended == "running" and not contract.machine.running
        if waits and not contract.outbid and not _booting(contract):
            self._begin(contract, "rented")

    def relabel(self, contract: Contract, label: str) -> None:
        """Give it another label."""
        contract.label = label
        self._ledger.relabel(PROVIDER, str(contract.id), label)

    async def reboot(self, contract: Contract) -> None:
        """Take its power and give it back; it is billed all the while."""
        if not contract.machine.running:
            raise RefusedError(400, "invalid_args", "the instance is not running")
        contract.actual = "rebooting"
        await contract.machine.halt()
        await self._power_on(contract)
        contract.actual = "running"

    def attach_key(self, contract: Contract, text: str) -> int:
        """Put one more public key into it. Returns the key's id."""
        self._next_id += 1
        contract.keys[self._next_id] = text
        image.authorize(contract.machine.root, "root", contract.keys.values())
        return self._next_id

    def detach_key(self, contract: Contract, key_id: int) -> None:
        """Take a public key away from it."""
        del contract.keys[key_id]
        image.authorize(contract.machine.root, "root", contract.keys.values())

    async def destroy(self, contract: Contract) -> None:
        """End it, with its disk; the slot is listed again under a new ask."""
        if contract.ending or self._faults.take("destroy-lies", provider=PROVIDER):
            return
        contract.ending = True
        await self._halt(contract)
        del self.contracts[contract.id]
        self._ledger.destroy(PROVIDER, str(contract.id), at=self._clock())
        await contract.machine.remove()
        slot = contract.slot
        slot.min_bid, slot.taken = contract.floor, False
        slot.ask_id, self._next_ask = self._next_ask, self._next_ask + 1

    # What the market does

    async def outbid(self, contract: Contract, form: Form) -> None:
        """Somebody bids more: it is stopped at once, in one of the two forms that are reported."""
        if contract.bid is None:
            raise RefusedError(409, "on_demand", "an on-demand rental cannot be outbid")
        await self._halt(contract)
        contract.floor = round(max(contract.floor, contract.bid) * _RAISE, 4)
        if form == "A":
            contract.enter("stopped", intended="running", current="stopped", next="running")
        else:
            contract.enter("exited", intended="stopped", current="stopped")

    async def lose(self, contract: Contract, status: str = "offline") -> None:
        """Its host is gone from the network."""
        await self._halt(contract)
        contract.enter(status, intended="running", current="running")

    async def exit(self, contract: Contract) -> None:
        """Its container ends by itself."""
        await self._halt(contract)
        contract.enter("exited", intended="running", current="running")

    def resume(self, contract: Contract) -> None:
        """The market lets it run again by itself, whatever its tenant asked before."""
        if contract.machine.running or _booting(contract):
            return
        if contract.bid is not None:
            contract.floor = min(contract.floor, round(contract.bid * 0.9, 4))
        self._begin(contract, "market_resumed")

    async def close(self) -> None:
        """Stop everything, for the end of the simulator."""
        for contract in list(self.contracts.values()):
            await self._halt(contract)

    def visible(self, contracts: Iterable[Contract]) -> list[Contract]:
        """Those that a list shows now: not the newest when lists lag, none when they lie."""
        if self._faults.take("list-empty", provider=PROVIDER):
            return []
        lag = self._faults.peek("list-lag", provider=PROVIDER)
        oldest = self._clock() - (lag.seconds() if lag else 0.0)
        return [contract for contract in contracts if contract.created_at <= oldest]

    def get(self, id: int) -> Contract | None:
        """The contract, or None when it is unknown, destroyed or too new to be seen."""
        contract = self.contracts.get(id)
        if contract is None:
            return None
        return contract if self._clock() >= contract.shown_from else None


def _booting(contract: Contract) -> bool:
    return contract.boot is not None and not contract.boot.done()


def _container_environment(contract: Contract) -> dict[str, Any]:
    own = {name: value for name, value in contract.env.items() if not name.startswith("-")}
    return own | {
        "CONTAINER_ID": str(contract.id),
        "CONTAINER_API_KEY": contract.api_key,
        "VAST_CONTAINERLABEL": f"C.{contract.id}",
        "PUBLIC_IPADDR": contract.address,
        "VAST_TCP_PORT_22": str(contract.port),
        "GPU_COUNT": str(contract.slot.num_gpus),
    }
