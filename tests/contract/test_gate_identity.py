"""What a person's own ssh makes of the hosts behind a workspace's address."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cli.endpoint import Access, Endpoint
from shared.certificates import CertificateRole
from shared.machines import Role, WorkspaceName
from tests.support.faults import fault
from tests.support.hosts import WORKSPACE, Lab, LabHost, people_key

pytestmark = pytest.mark.anyio


@fault(89)
async def test_a_switch_is_silent_for_a_client_with_our_lines_and_loud_for_one_without(
    hosts: Lab, tmp_path: Path
) -> None:
    key, public_key = people_key(tmp_path)
    gpu = await hosts.host(Role.GPU, name="gpu", people=(public_key,))
    standby = await hosts.host(Role.STANDBY, name="standby", people=(public_key,))
    await hosts.promote(standby, 0, serve=True)

    for host in (gpu, standby, gpu):
        done = await run(our_client(hosts, host, key, tmp_path).ssh_argv("echo in", batch=True))
        assert done == (0, "in\n")

    first, second = plain_client(gpu, key, tmp_path), plain_client(standby, key, tmp_path)
    assert (await run([*first, "echo in"]))[1].endswith("in\n")
    status, said = await run([*second, "echo in"])
    assert status == 255
    assert "IDENTIFICATION HAS CHANGED" in said


@fault(89)
async def test_a_neighbours_host_is_refused_also_where_it_would_let_one_in(
    hosts: Lab, tmp_path: Path
) -> None:
    key, public_key = people_key(tmp_path)
    gpu = await hosts.host(Role.GPU, name="gpu", people=(public_key,))
    ours = our_client(hosts, gpu, key, tmp_path)
    neighbour = WorkspaceName("neighbour")
    theirs = replace(
        ours.endpoint, workspace=neighbour, host_ca=hosts.authority.host_ca_public(neighbour)
    )
    ours.known_hosts.write_text(f"{theirs.known_hosts_line()}\n")
    status, said = await run(replace(ours, endpoint=theirs).ssh_argv("echo in", batch=True))
    assert (status, "in\n" in said) == (255, False)
    assert "Host key verification failed" in said


async def test_a_key_for_the_gate_opens_no_port_and_no_terminal(hosts: Lab) -> None:
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
    login = hosts.login(CertificateRole.PROBE, 0)
    where = ["-p", str(gpu.host.port), f"root@{gpu.host.address}"]
    status, said = await run([*login, "-W", f"{gpu.host.address}:{gpu.host.port}", *where])
    assert status == 255
    assert "forwarding failed" in said
    _, said = await run([*login, "-tt", *where, "dumont look"])
    assert "PTY allocation request failed" in said
    forward = ["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"]
    assert (await run([*login, *forward, *where, "dumont look"]))[0] == 255


def our_client(hosts: Lab, host: LabHost, key: Path, directory: Path) -> Access:
    """A person with what ``dumont ssh-config`` writes, the address leading to ``host`` now."""
    endpoint = Endpoint(
        workspace=WORKSPACE,
        host=host.host.address,
        port=host.host.port,
        host_ca=hosts.authority.host_ca_public(WORKSPACE),
    )
    known = directory / "people_known_hosts"
    known.write_text(f"{endpoint.known_hosts_line()}\n")
    return Access(endpoint=endpoint, known_hosts=known, identity=key)


def plain_client(host: LabHost, key: Path, directory: Path) -> list[str]:
    """A person without them, who knows the address by one name and trusts it at first sight."""
    options = {
        "HostKeyAlias": "gpu.example",
        "UserKnownHostsFile": str(directory / "plain_known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "accept-new",
        "BatchMode": "yes",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    at = ["-p", str(host.host.port), f"workspace@{host.host.address}"]
    return ["ssh", "-F", "/dev/null", "-i", str(key), *flags, *at]


async def run(command: list[str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode(errors="replace")
