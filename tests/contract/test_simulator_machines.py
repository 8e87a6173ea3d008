"""What the simulated clouds rent out are real machines: they boot, die, return and are billed."""

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.simulator import Simulator, simulator
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Tenant:
    """Somebody with a key pair who rents GPUs."""

    clouds: Simulator
    key: Path

    def rent(self, **changes: Any) -> int:
        """Rent the first offer there is; its id."""
        body = {"image": "img:tag", "disk": 16, "label": "gpu-1", "cancel_unavail": True} | changes
        with self.clouds.vast() as vast:
            if not vast.get("/api/v0/ssh/").json():
                public = self.key.with_suffix(".pub").read_text().strip()
                vast.post("/api/v0/ssh/", json={"ssh_key": public})
            offer = vast.post("/api/v0/bundles/", json={"type": "bid"}).json()["offers"][0]
            body["price"] = offer["min_bid"] * 1.2
            answer = vast.put(f"/api/v0/asks/{offer['id']}/", json=body).json()
        return int(answer["new_contract"])

    def state(self, id: int) -> str | None:
        state: str | None = self.clouds.machine(id)["state"]
        return state

    def running(self, **changes: Any) -> int:
        """Rent one and wait until it answers."""
        id = self.rent(**changes)
        self.answers(id)
        return id

    def answers(self, id: int) -> None:
        eventually(lambda: self.state(id) == "running")
        eventually(lambda: self.ssh(id, "true").returncode == 0)

    def ssh(
        self, id: int, command: str, *, user: str = "root"
    ) -> "subprocess.CompletedProcess[str]":
        machine = self.clouds.machine(id)
        options = {
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
            "ConnectTimeout": 5,
        }
        return subprocess.run(
            ["ssh", "-F", "none", "-p", str(machine["port"])]
            + [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
            + [f"{user}@{machine['ip']}", command],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def says(self, id: int, command: str) -> str:
        done = self.ssh(id, command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def destroy(self, id: int) -> None:
        with self.clouds.vast() as vast:
            assert vast.delete(f"/api/v0/instances/{id}/").json() == {"success": True}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    directory = tmp_path_factory.mktemp("clouds")
    with simulator(directory, boot_seconds=0.05, hidden_seconds=0) as running:
        yield running


@pytest.fixture(scope="module")
def tenant(clouds: Simulator, key: Path) -> Tenant:
    return Tenant(clouds, key)


@pytest.fixture(scope="module")
def gpu(tenant: Tenant) -> int:
    """A machine that every test may use and none takes away."""
    return tenant.running()


def account(clouds: Simulator, id: int) -> dict[str, Any]:
    (found,) = [one for one in clouds.ledger()["instances"] if one["id"] == str(id)]
    return dict(found)


def test_a_machine_is_taken_away_comes_back_and_every_second_is_in_the_ledger(
    tenant: Tenant,
) -> None:
    id = tenant.running(onstart="date +%N >> /root/starts")
    tenant.says(id, "echo data > /workspace/file && (sleep 300 >/dev/null 2>&1 &) ; sync")
    tenant.clouds.happen(id, "outbid", form="B")
    assert tenant.ssh(id, "true").returncode == 255
    (first,) = account(tenant.clouds, id)["intervals"]
    assert first["cause"] == "rented"
    assert first["to"] > first["from"]
    assert tenant.clouds.read(id, "/workspace/file") == b"data\n"
    tenant.clouds.happen(id, "resume")
    tenant.answers(id)
    assert tenant.says(id, "cat /workspace/file; wc -l < /root/starts") == "data\n2"
    assert "sleep" not in tenant.says(id, "ps ax -o comm")
    second = account(tenant.clouds, id)["intervals"][1]
    assert (second["cause"], second["to"]) == ("market_resumed", None)
    tenant.destroy(id)
    ended = account(tenant.clouds, id)
    assert ended["destroyed_at"] >= ended["intervals"][1]["to"] > second["from"]
    seconds = sum(one["to"] - one["from"] for one in ended["intervals"])
    assert ended["running_usd"] == pytest.approx(seconds / 3600 * first["usd_per_hour"])
    refused = tenant.clouds.control.post(f"/machines/{id}/resume")
    assert (refused.status_code, "destroyed" in refused.json()["error"]) == (404, True)


def test_a_machine_has_its_own_processes_files_and_programs(tenant: Tenant, gpu: int) -> None:
    said = tenant.says(
        gpu,
        "hostname; ls -A /workspace /home; python3 -c 'print(6 * 7)'; rsync --version | head -1; "
        "nvidia-smi --query-gpu=memory.total --format=csv,noheader; touch /usr/mine; ps ax -o pid=",
    )
    hostname, home, _, workspace, product, rsync, memory, *processes = said.splitlines()
    assert (hostname, home, workspace, product) == (f"C-{gpu}", "/home:", "/workspace:", "42")
    assert rsync.startswith("rsync")
    assert memory.isdigit()
    assert 2 < len(processes) < 10
    assert not Path("/usr/mine").exists()


def test_people_can_be_given_accounts_inside(tenant: Tenant, gpu: int) -> None:
    tenant.says(gpu, "useradd -m -s /bin/sh ann && usermod -aG users ann")
    tenant.says(
        gpu, "install -d -o ann ~ann/.ssh && install -o ann ~/.ssh/authorized_keys ~ann/.ssh/"
    )
    assert tenant.ssh(gpu, "whoami", user="ann").stdout.strip() == "ann"
    assert tenant.ssh(gpu, "touch /root/x", user="ann").returncode != 0
    assert tenant.says(gpu, "runuser -u ann -- whoami") == "ann"


def test_sshd_takes_a_new_configuration_on_hup(tenant: Tenant, gpu: int) -> None:
    tenant.says(gpu, "echo 'Banner /etc/hello' > /etc/ssh/sshd_config.d/10-hello.conf")
    tenant.says(gpu, "echo hello there > /etc/hello && kill -HUP $(cat /run/sshd.pid)")
    eventually(lambda: tenant.ssh(gpu, "sshd -T -C user=root 2>/dev/null | grep -q /etc/hello"))
    eventually(lambda: tenant.ssh(gpu, "true").returncode == 0)


def test_without_sshd_a_machine_runs_on_and_is_silent(tenant: Tenant) -> None:
    id = tenant.running()
    tenant.clouds.happen(id, "kill-sshd")
    assert tenant.ssh(id, "true").returncode == 255
    machine = tenant.clouds.machine(id)
    assert (machine["state"], machine["powered"]) == ("running", True)
    tenant.clouds.happen(id, "reboot")
    tenant.answers(id)
    assert len(account(tenant.clouds, id)["intervals"]) == 1
    tenant.destroy(id)


def test_ssh_may_never_come(tenant: Tenant) -> None:
    tenant.clouds.fault("ssh-never-comes")
    id = tenant.rent()
    eventually(lambda: tenant.state(id) == "running")
    time.sleep(0.3)
    assert tenant.ssh(id, "true").returncode == 255
    tenant.destroy(id)


def test_a_machine_may_be_outbid_the_moment_it_boots(tenant: Tenant) -> None:
    tenant.clouds.fault("outbid-at-boot", form="A")
    id = tenant.rent()
    eventually(lambda: tenant.state(id) == "stopped")
    assert account(tenant.clouds, id)["intervals"][0]["to"] is not None
    tenant.destroy(id)


def test_trees_are_read_and_changed_only_inside_the_machine(tenant: Tenant, gpu: int) -> None:
    clouds = tenant.clouds
    tenant.says(
        gpu,
        "mkdir -p /var/lib/live/tree/sub && cd /var/lib/live/tree && printf abc > sub/file && "
        "chmod 640 sub/file && ln -s ../../../../../../etc/passwd link && "
        "ln -sfn /var/lib/live/tree /srv/seen && ln -s / sub/root && ln -s loop loop",
    )
    files = clouds.tree(gpu, "/srv/seen")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert files["sub/file"] == {"type": "file", "mode": 0o640, "size": 3, "sha256": digest}
    assert files["link"]["target"] == "../../../../../../etc/passwd"
    assert files["sub"]["type"] == "dir"
    root = Path(clouds.machine(gpu)["root"])
    assert clouds.read(gpu, "/srv/seen/link") == (root / "etc/passwd").read_bytes()
    assert clouds.read(gpu, "/srv/seen/sub/root/../../etc/hostname") == f"C-{gpu}\n".encode()
    clouds.write(gpu, "/srv/seen/sub/root/tmp/new", b"xyz")
    assert tenant.says(gpu, "cat /tmp/new") == "xyz"
    clouds.happen(gpu, "truncate", path="/tmp/new", bytes=1)
    assert tenant.says(gpu, "cat /tmp/new") == "x"
    clouds.control.delete(f"/machines/{gpu}/file", params={"path": "/srv/seen"})
    assert clouds.tree(gpu, "/var/lib/live/tree")["sub/file"]["size"] == 3
    for path in ("/", "/../..", "/srv/none", "/var/lib/live/tree/loop/x"):
        answer = clouds.control.delete(f"/machines/{gpu}/file", params={"path": path})
        assert answer.status_code == 404, path


def test_the_control_port_says_what_it_cannot_do(clouds: Simulator, gpu: int) -> None:
    for path, body, status in (
        ("/faults", {"name": "nonsense"}, 400),
        ("/faults", {"name": "slow", "count": 0}, 400),
        (f"/machines/{gpu}/preempt", {}, 409),
        (f"/machines/{gpu}/explode", {}, 404),
        (f"/machines/{gpu}/outbid", {"form": "C"}, 400),
        ("/machines/nobody/lose", {}, 404),
    ):
        answer = clouds.control.post(path, json=body)
        assert (answer.status_code, bool(answer.json()["error"])) == (status, True), path


def test_nothing_is_left_when_the_simulator_ends(tmp_path: Path, key: Path) -> None:
    with simulator(tmp_path, boot_seconds=0.05, hidden_seconds=0) as clouds:
        tenant = Tenant(clouds, key)
        id = tenant.running()
        tenant.says(id, "(sleep 300 >/dev/null 2>&1 &)")
        assert len(inits(tmp_path)) == 2
    assert inits(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["simulator.log"]
    assert (tmp_path / "simulator.log").read_text() == ""


def test_a_simulator_that_is_killed_takes_its_machines_along(tmp_path: Path, key: Path) -> None:
    with simulator(tmp_path, boot_seconds=0.05, hidden_seconds=0) as clouds:
        Tenant(clouds, key).running()
        assert inits(tmp_path)
        os.kill(clouds.pid, signal.SIGKILL)
        eventually(lambda: inits(tmp_path) == [])
    with simulator(tmp_path) as again:
        assert again.machines() == []


def test_one_directory_is_of_one_simulator(tmp_path: Path) -> None:
    with simulator(tmp_path):
        second = pytest.raises(AssertionError, match="another simulator runs in")
        with second, simulator(tmp_path):
            pass


def inits(directory: Path) -> list[int]:
    """The first processes of machines, each with the guard before it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"simulator/init.py" in command and str(directory).encode() in command:
                found.append(int(entry.name))
    return found
