"""Whatever is wrong outside: one clear line that says what to do, nothing lost, no traceback."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import nats
import pytest

from tests.support.disks import small_disk
from tests.support.faults import fault
from tests.support.simulator import Simulator, simulator
from tests.support.waiting import PATIENCE, eventually

FAST = {
    "DUMONT_DRIVE_INTERVAL": "0.2",
    "DUMONT_POLL_INTERVAL": "0.2",
    "DUMONT_SWEEP_INTERVAL": "1",
    "DUMONT_PROVIDER_PACE": "0.02",
    "DUMONT_SETTLE_SECONDS": "4",
}
POLICY: dict[str, object] = {
    "sync_interval": 1,
    "health_interval": 0.5,
    "probe_timeout": 2,
    "search_retry_wait": 0.3,
    "ssh_timeout": 8,
}
GARBAGE = "<html>this is no api</html>"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="simulated machines are namespaces: root only"),
]

Facts = dict[str, Any]


def run(
    *arguments: str, env: Mapping[str, str] = ENVIRONMENT
) -> "subprocess.CompletedProcess[str]":
    """The command line as a person runs it; whatever happens, it shows no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**env},
        timeout=PATIENCE,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


@dataclass(frozen=True)
class Stack:
    """A running product on simulated clouds. ``told`` is all that its command line ever said."""

    dir: Path
    clouds: Simulator
    facts: Facts
    http: httpx.Client
    told: list[str] = field(default_factory=list)

    def dumont(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        done = run("--dir", str(self.dir), *arguments)
        self.told.extend((done.stdout, done.stderr))
        return done

    def register(self, name: str, **more: object) -> None:
        body = {"name": name, "policy": POLICY, **more}
        assert self.http.post("/v1/workspaces", json=body).status_code == 201

    def state(self, name: str) -> Facts:
        found: Facts = self.http.get(f"/v1/workspaces/{name}").raise_for_status().json()
        return found

    def timeline(self, name: str) -> list[Facts]:
        page = self.http.get(f"/v1/workspaces/{name}/timeline", params={"limit": 1000})
        entries: list[Facts] = page.raise_for_status().json()["entries"]
        return entries

    def pid(self, service: str) -> int:
        document = json.loads((self.dir / "run.json").read_text())
        (pid,) = document["pids"][service]
        return int(pid)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("bad-input")
    here = ("--dir", str(directory / "stack"))
    with simulator(directory / "clouds", boot_seconds=0.2) as clouds:
        variables = {
            **FAST,
            "DUMONT_VAST_URL": clouds.vast_url,
            "DUMONT_GCE_URL": clouds.gce_url,
            "DUMONT_VAST_API_KEY": clouds.keys["vast"],
            "DUMONT_VAST_READ_KEY": clouds.keys["vast_read"],
            "DUMONT_GCE_PROJECT": clouds.keys["gce_project"],
            "DUMONT_GCE_SSH_PORT": str(clouds.gce_ssh_port),
        }
        done = run("up", "--embedded", *here, "--json", env={**ENVIRONMENT, **variables})
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout.splitlines()[-1])
        headers = {"Authorization": f"Bearer {facts['api_key']}"}
        try:
            with httpx.Client(
                base_url=facts["api_url"], headers=headers, trust_env=False, timeout=20
            ) as client:
                yield Stack(directory / "stack", clouds, facts, client)
        finally:
            ended = run("down", *here, "--delete-data", "--yes")
            assert ended.returncode == 0, ended.stderr


# --- asked wrongly --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb",
    [
        *(f"{verb} nobody --yes" for verb in ("failover", "recover", "failback", "pause")),
        *(f"{verb} nobody --yes" for verb in ("resume", "accept", "workspace remove")),
        *(f"{verb} nobody" for verb in ("status", "timeline", "timeline -f", "state", "ssh")),
        *(f"{verb} nobody" for verb in ("ssh-config", "workspace show", "state --from-log")),
    ],
)
def test_every_verb_says_that_a_workspace_is_unknown_and_where_to_look(
    stack: Stack, verb: str
) -> None:
    done = stack.dumont(*verb.split())
    assert done.returncode == 1
    assert "no workspace 'nobody'" in done.stderr
    assert "dumont workspace list" in done.stderr
    assert done.stdout == ""


@fault(90)
@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("sync_interval=soon", "takes a number"),
        ("sync_intervall=3", "did you mean sync_interval?"),
        ("sync_interval=-1", "greater than 0"),
        ("sync_interval=nan", "must be a number"),
        ("ssh_timeout=1e300", "larger than"),
        ("gpu_image=", "one line of text"),
    ],
)
def test_a_bad_policy_value_is_refused_before_anything_is_asked(
    stack: Stack, setting: str, says: str
) -> None:
    done = stack.dumont("workspace", "add", "never", "--policy", setting)
    assert done.returncode == 2
    assert says in done.stderr
    assert stack.http.get("/v1/workspaces/never").status_code == 404


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ('{"sync_interval": "3"}', "valid number"),
        ('{"sync_interval": true}', "valid number"),
        ('{"sync_intervall": 3}', "did you mean 'sync_interval'?"),
        ('{"sync_interval": -1}', "greater than 0"),
        ('{"sync_interval": NaN}', "must be a number"),
        ('{"sync_interval": 1e999}', "must be a number"),
        ('{"failover_threshold": %s}' % ("9" * 400), "larger than"),
        ('{"regions": ["Thailand"]}', "two-letter code"),
        ('{"gpu_image": "a\\u0000b"}', "one line of text"),
        ("[1]", "dictionary"),
    ],
)
def test_a_bad_policy_value_over_http_is_a_problem_with_the_reason(
    stack: Stack, policy: str, says: str
) -> None:
    answer = stack.http.post(
        "/v1/workspaces",
        content=f'{{"name": "never", "policy": {policy}}}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert answer.json()["hint"]
    assert stack.http.get("/v1/workspaces/never").status_code == 404


JSON = "application/json"


@fault(92)
@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        (b"\xff\xfe rubbish", JSON, 400, "Content-Type: application/json"),
        (b"[" * 60_000, JSON, 400, "Content-Type: application/json"),
        (b'{"name": "x", "policy": {"cooldown": ' + b"9" * 5_000 + b"}}", JSON, 400, "JSON"),
        (b"x" * 200_000, JSON, 413, "only the fields"),
        (b"x" * 10_000_000, JSON, 413, "only the fields"),
        (b'{"name": "never"}', "text/plain", 422, "Content-Type: application/json"),
        (b"name=never", "application/x-www-form-urlencoded", 422, "application/json"),
        (b"[]", JSON, 422, "one JSON object"),
        (b"", JSON, 422, "correct what is listed"),
    ],
)
def test_a_body_that_is_no_request_is_a_problem_that_says_what_to_send(
    stack: Stack, body: bytes, kind: str, status: int, says: str
) -> None:
    answer = stack.http.post("/v1/workspaces", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["hint"]


def test_a_workspace_is_not_added_twice(stack: Stack) -> None:
    assert stack.dumont("workspace", "add", "twice").returncode == 0
    again = stack.dumont("workspace", "add", "twice")
    assert again.returncode == 1
    assert "the name 'twice' is taken" in again.stderr
    assert "choose another name" in again.stderr
    stack.dumont("workspace", "remove", "twice", "--yes")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--from", "/no/such/directory", "there is no directory /no/such/directory"),
        ("--from", "/etc/hostname", "is not a directory"),
        ("--path", "/etc", "take a directory such as /workspace"),
        ("--path", "relative", "is not absolute"),
        ("--identity", "/no/such/key", "there is no key file /no/such/key"),
        ("--ssh-key", "/no/such/key.pub", "No such file"),
    ],
)
def test_a_path_that_is_not_there_is_named(
    stack: Stack, option: str, value: str, says: str
) -> None:
    done = stack.dumont("workspace", "add", "pathless", option, value)
    assert done.returncode in {1, 2}
    assert says in done.stderr


# --- this machine is not fit ----------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--api-port", "--endpoint-ports"])
def test_a_port_in_use_is_named_with_the_way_to_see_who_has_it(tmp_path: Path, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("up", "--embedded", "--dir", str(tmp_path / "stack"), option, port)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert option in done.stderr


def test_an_address_of_another_machine_is_no_shortage_of_ports(tmp_path: Path) -> None:
    here = ("--dir", str(tmp_path / "stack"))
    done = run("up", "--embedded", *here, "--endpoint-host", "203.0.113.9")
    assert done.returncode == 2
    assert "203.0.113.9 is no address of this machine" in done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("workspace add toolless --from /usr/share/doc", "apt-get install rsync"),
        ("ssh toolless", "apt-get install openssh-client"),
        ("demo", "apt-get install openssh-client"),
    ],
)
def test_a_tool_that_is_not_installed_comes_with_what_to_type(
    stack: Stack, tmp_path: Path, command: str, says: str
) -> None:
    without_tools = {"PATH": str(tmp_path), "HOME": "/root"}
    done = run("--dir", str(stack.dir), *command.split(), env=without_tools)
    assert done.returncode == 1
    assert "is not installed here" in done.stderr
    assert says in done.stderr


def test_a_stack_does_not_begin_on_a_disk_that_it_would_fill(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        done = run("up", "--embedded", "--dir", str(disk / "stack"))
        assert done.returncode == 1
        assert "MB free" in done.stderr
        assert "choose another directory with --dir" in done.stderr
        assert not (disk / "stack" / "stack.json").exists()


def test_the_demo_refuses_before_it_starts_what_would_not_fit(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        done = run("demo", env={**ENVIRONMENT, "TMPDIR": str(disk)})
        assert done.returncode == 1
        assert "set TMPDIR to another disk" in done.stderr
        assert list(disk.iterdir()) == []


# --- what comes over the bus ----------------------------------------------------------------------


def said(workspace: str, *, type_: str = "RequestReceived.v1", **data: object) -> Facts:
    """A request as the api would say it."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": "/dumont/api",
        "type": f"dumont.{type_}",
        "subject": workspace,
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "epoch": 0,
        "data": {"workspace": workspace, "epoch": 0, **data},
    }


def request(workspace: str, verb: str, **arguments: object) -> Facts:
    return said(workspace, verb=verb, actor="test", arguments=arguments)


HOST = {"id": "x", "provider": "ssh", "provider_id": "", "address": "192.0.2.1", "port": "abc"}
INBOX = "dumont.inbox.api.aside.RequestReceived"
UNREADABLE: list[tuple[bytes, str]] = [
    (b"\xff\x00 rubbish", "not JSON"),
    (b"x" * 200_000, "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"a": 1}', "has no 'type'"),
    (json.dumps(said("aside", type_="Nonsense.v1")).encode(), "unknown event type 'Nonsense'"),
    (json.dumps(said("aside", type_="RequestReceived.v99")).encode(), "v99 is not known"),
    (json.dumps(said("aside", verb=1)).encode(), "verb"),
    (
        json.dumps(request("aside", "pause") | {"source": "/dumont/recovery"}).encode(),
        "it says it is from recovery",
    ),
]
SENSELESS: list[Facts] = [
    request("aside", "register", policy=[1]),
    request("aside", "register", policy={"ssh_timeout": 1e300}),
    request("aside", "register", policy={"cooldown": 10**400}),
    request("aside", "register", origin=[]),
    request("aside", "register", origin="adopted", adopted=HOST),
    request("aside", "pause"),
]
"""They decode, and are refused in the log like any other request that makes no sense."""


@fault(21, 31, 32)
def test_what_does_not_decode_is_kept_aside_with_its_reason_and_holds_nothing_up(
    stack: Stack,
) -> None:
    pid = stack.pid("recovery")
    port = json.loads((stack.dir / "run.json").read_text())["facts"]["nats_port"]
    password = (stack.dir / "secrets" / "nats_api").read_text().strip()

    async def say_all() -> list[tuple[bytes, dict[str, str] | None]]:
        url = f"nats://127.0.0.1:{port}"
        api = await nats.connect(url, user="api", password=password, inbox_prefix=b"_INBOX_api")
        reader = await nats.connect(stack.facts["nats_url"])
        try:
            for body, _ in UNREADABLE:
                await api.request(INBOX, body, timeout=5)
            for event in SENSELESS:
                await api.request(INBOX, json.dumps(event).encode(), timeout=5)
            kept = await reader.jetstream().subscribe(
                "dumont.deadletter.recovery", stream="DUMONT_DEADLETTERS", ordered_consumer=True
            )
            found = [await kept.next_msg(timeout=5) for _ in UNREADABLE]
            return [(msg.data, msg.headers) for msg in found]
        finally:
            await api.close()
            await reader.close()

    kept = asyncio.run(say_all())
    for (body, why), (found, headers) in zip(UNREADABLE, kept, strict=True):
        assert found == body
        assert why in (headers or {})["Dumont-Reason"]
        assert headers and headers["Dumont-Subject"] == INBOX

    def recorded() -> list[str]:
        events = stack.http.get("/v1/events", params={"workspace": "aside"}).json()["events"]
        return [item["type"] for item in events]

    pair = ["dumont.RequestReceived.v1", "dumont.RequestRefused.v1"]
    eventually(lambda: recorded() == pair * len(SENSELESS), recorded)
    assert stack.pid("recovery") == pid
    assert "Traceback" not in (stack.dir / "logs" / "recovery-1.log").read_text()


# --- providers in trouble -------------------------------------------------------------------------


def trouble(stack: Stack, status: int, body: object, **where: str) -> None:
    """From now on the provider answers so at that place, and only so."""
    stack.clouds.control.delete("/faults").raise_for_status()
    stack.clouds.fault("http-error", status=status, body=body, **where)


def told(stack: Stack, name: str, *parts: str, event: str = "ProvisionFailed") -> None:
    """Wait for an entry of the timeline that says all this."""

    def there() -> bool:
        entries = [e for e in stack.timeline(name) if e["event"] == event]
        return any(all(part in entry["text"] for part in parts) for entry in entries)

    eventually(there, lambda: [e["text"] for e in stack.timeline(name)[-5:]])


def recovers(stack: Stack, name: str) -> None:
    """Once the provider is well again the workspace gets its one GPU, by itself."""
    stack.clouds.control.delete("/faults").raise_for_status()
    eventually(lambda: stack.state(name)["phase"] == "SYNCING", lambda: stack.state(name))
    billed = [m for m in stack.clouds.machines() if f"-{name}-" in m["label"]]
    assert sorted(m["kind"] for m in billed) == ["gpu", "standby"]
    assert stack.dumont("workspace", "remove", name, "--yes").returncode == 0


@fault(55)
def test_a_market_in_trouble_is_told_with_its_answer_and_searched_again(stack: Stack) -> None:
    where = {"provider": "vast", "method": "POST", "path_contains": "/bundles"}
    # A provider may well repeat our key in its answer: nobody is to read it in ours.
    refused = {"success": False, "error": "auth_error", "msg": f"no: {stack.clouds.vast_key}"}
    trouble(stack, 401, refused, **where)
    stack.register("search")
    told(stack, "search", "(credentials)", "401", "check DUMONT_VAST_API_KEY")
    told(stack, "search", "a person must act", "check DUMONT_VAST_API_KEY", event="RecoveryHalted")
    assert "DUMONT_VAST_API_KEY" in stack.dumont("status", "search").stderr
    trouble(stack, 404, GARBAGE, **where)
    assert stack.dumont("recover", "search", "--yes", "--no-wait").returncode == 0
    told(stack, "search", "404", "DUMONT_VAST_URL")
    trouble(stack, 500, f"oops {stack.clouds.vast_key}", **where)
    told(stack, "search", "500 (oops ***)", "it is tried again")
    trouble(stack, 200, GARBAGE, **where)
    told(stack, "search", "200 (<html>", "it is tried again")
    trouble(stack, 429, {"detail": "API requests too frequent"}, **where)
    told(stack, "search", "429", "it goes on by itself")
    recovers(stack, "search")


@fault(56)
def test_a_rental_in_trouble_is_told_and_never_made_twice(stack: Stack) -> None:
    where = {"provider": "vast", "method": "PUT", "path_contains": "/asks/"}
    trouble(stack, 401, {"success": False, "error": "auth_error", "msg": "no"}, **where)
    stack.register("rent")
    told(stack, "rent", "(credentials)", "401", "check DUMONT_VAST_API_KEY")
    eventually(lambda: stack.state("rent")["phase"] == "HALTED")
    trouble(stack, 429, {"detail": "API requests too frequent"}, **where)
    assert stack.dumont("recover", "rent", "--yes", "--no-wait").returncode == 0
    told(stack, "rent", "(rent)", "429", "it goes on by itself")
    trouble(stack, 500, "oops", **where)
    told(stack, "rent", "(rent)", "did not confirm the rental in time")
    recovers(stack, "rent")


def test_a_cloud_in_trouble_is_told_with_a_hint_and_asked_again(stack: Stack) -> None:
    where = {"provider": "gce", "method": "POST", "path_contains": "/instances"}
    trouble(stack, 403, {"error": {"code": 403, "message": "no permission"}}, **where)
    stack.register("cloud")
    told(stack, "cloud", "(credentials)", "403", "check the project, the Google credentials")
    trouble(stack, 404, GARBAGE, **where)
    told(stack, "cloud", "404", "check DUMONT_GCE_PROJECT")
    limited = {"code": 429, "message": "slow", "errors": [{"reason": "rateLimitExceeded"}]}
    trouble(stack, 429, {"error": limited}, **where)
    told(stack, "cloud", "429 rateLimitExceeded: slow", "it goes on by itself")
    trouble(stack, 500, "oops", **where)
    reached = stack.timeline("cloud")[-1]["position"]
    trouble(stack, 200, GARBAGE, **where)
    eventually(lambda: stack.timeline("cloud")[-1]["position"] >= reached)
    recovers(stack, "cloud")


def test_a_host_that_does_not_let_us_in_is_told_with_the_key_to_add(stack: Stack) -> None:
    """A machine that its owner rented and where our key never was."""
    headers = {"Authorization": f"Bearer {stack.clouds.vast_key}"}
    with httpx.Client(base_url=stack.clouds.vast_url, headers=headers, trust_env=False) as market:
        keys = market.get("/api/v0/ssh/").json()
        for key in keys:
            market.delete(f"/api/v0/ssh/{key['id']}/").raise_for_status()
        offer = market.post("/api/v0/bundles/", json={"type": "on-demand", "limit": 1}).json()
        market.put(
            f"/api/v0/asks/{offer['offers'][0]['id']}/",
            json={
                "client_id": "me",
                "image": "mine",
                "disk": 10,
                "label": "closed",
                "runtype": "ssh_direc ssh_proxy",
            },
        ).raise_for_status()
    eventually(lambda: stack.clouds.machine("closed")["state"] == "running")
    machine = stack.clouds.machine("closed")
    place = f"{machine['ip']}:{machine['port']}"
    key = stack.http.get("/readyz").json()["ssh_public_key"].strip()
    policy = [part for name, value in POLICY.items() for part in ("--policy", f"{name}={value}")]
    added = stack.dumont("workspace", "add", "closed", "--standby", f"root@{place}", *policy)
    assert added.returncode == 0
    assert f"let this key in as root on {place}: {key}" in added.stderr
    told(stack, "closed", f"root@{place} does not let us in", key)
    authorized = Path(machine["root"]) / "root" / ".ssh" / "authorized_keys"
    authorized.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with authorized.open("a") as file:
        file.write(key + "\n")
    authorized.chmod(0o600)
    told(stack, "closed", "the standby is up", event="StandbyProvisioned")


# --- secrets --------------------------------------------------------------------------------------


@fault(98)
def test_after_all_this_no_secret_is_in_a_log_an_event_or_an_answer(stack: Stack) -> None:
    kept = {file.name: file.read_text().strip() for file in (stack.dir / "secrets").iterdir()}
    secrets = {**kept, "vast": stack.clouds.keys["vast"], "read": stack.clouds.keys["vast_read"]}
    assert {"api_key", "nats_recovery", "postgres_owner"} <= secrets.keys()
    for verb in ("status", "doctor", "events", "workspace list"):
        stack.dumont(*verb.split(), "-o", "json")
    places = {"the command line": "\n".join(stack.told)}
    for file in [stack.dir / "supervisor.log", stack.dir / "run.json", stack.dir / "stack.json"]:
        places[file.name] = file.read_text()
    for file in (stack.dir / "logs").iterdir():
        places[file.name] = file.read_text(errors="replace")
    after: int | None = 0
    while after is not None:
        page = stack.http.get("/v1/events", params={"after": after, "limit": 1000})
        places[f"events after {after}"] = page.raise_for_status().text
        after = page.json()["next"]
    assert len(places["events after 0"]) > 10_000
    shown = [
        (name, place)
        for name, secret in {**secrets, "a private key": "PRIVATE KEY"}.items()
        for place, text in places.items()
        if secret in text
    ]
    assert shown == []
    logs = [text for place, text in places.items() if place.endswith(".log")]
    assert not any("Traceback" in text for text in logs)
