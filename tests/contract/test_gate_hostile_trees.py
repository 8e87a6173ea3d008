"""Trees that try to get what is not theirs: into the standby's files, or out of them."""

import asyncio
import os
from pathlib import Path

import pytest

from shared.certificates import CertificateRole
from shared.machines import Role
from shared.ssh import GateError
from tests.support.faults import fault
from tests.support.hosts import Lab, LabHost, people_key, slow_rsync, tree_of
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

SECRET, OPEN = "SECRET", "public"
FILES = 40

# Turns a directory into a link to another one and back, without end.
SWAPPER = """
import os
os.chdir("/workspace")
while True:
    os.rename("d", "x")
    os.symlink("/var/lib/secret", "d")
    os.unlink("d")
    os.rename("x", "d")
    for name in os.listdir("d"):
        os.utime(f"d/{name}", ns=(WHEN, WHEN))
"""


def hide(host: LabHost, when: int) -> Path:
    """Files of the standby that nobody but root reads, with sizes and times that are known."""
    secret = host.root / "var/lib/secret"
    secret.mkdir(mode=0o700)
    for number in range(FILES):
        (secret / f"f{number}").write_text(SECRET)
        os.utime(secret / f"f{number}", ns=(when, when))
    return secret


def sealed_files(standby: LabHost) -> list[Path]:
    every = (standby.store / "generations").rglob("*")
    return [path for path in every if path.is_file() and not path.is_symlink()]


@fault(87)
async def test_a_link_that_becomes_a_directory_brings_no_file_of_the_standby_into_a_copy(
    hosts: Lab,
) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")
    when = 10**18
    secret = hide(standby, when)
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
    gpu.workspace.mkdir(exist_ok=True)
    (gpu.workspace / "d").symlink_to("/var/lib/secret")
    await hosts.pull(standby, gpu, 0)
    (gpu.workspace / "d").unlink()
    (gpu.workspace / "d").mkdir()
    for number in range(FILES):
        path = gpu.workspace / f"d/f{number}"
        path.write_text(OPEN)
        path.chmod((secret / "f0").stat().st_mode)
        os.utime(path, ns=(when, when))
    await hosts.pull(standby, gpu, 0)
    assert tree_of(standby.sealed()) == tree_of(gpu.workspace)
    assert {path.stat().st_nlink for path in secret.iterdir()} == {1}
    await hosts.pull(standby, gpu, 0)
    assert tree_of(standby.sealed()) == tree_of(gpu.workspace)


@fault(87)
async def test_people_who_swap_directories_for_links_read_nothing_through_a_seal(
    hosts: Lab, tmp_path: Path
) -> None:
    key, public_key = people_key(tmp_path)
    standby = await hosts.host(Role.STANDBY, name="standby", people=(public_key,))
    await hosts.promote(standby, 0, serve=True)
    when = 4 * 10**18  # always newer than the last seal: its content is looked at
    hide(standby, when)
    fill = f"cd /workspace; mkdir d; for n in $(seq 0 {FILES - 1}); do printf {OPEN} > d/f$n; done"
    assert (await hosts.as_people(standby, key, fill))[0] == 0
    for path in (standby.workspace / "d").iterdir():
        os.utime(path, ns=(when, when))
    await hosts.seal(standby, 0)
    (standby.root / "tmp/swap.py").write_text(SWAPPER.replace("WHEN", str(when)))
    swapping = asyncio.create_task(hosts.as_people(standby, key, "python3 -I /tmp/swap.py"))
    await until((standby.workspace / "x").exists)
    tried = 0
    for _ in range(12):
        try:
            await hosts.seal(standby, 0)
            tried += 1
        except GateError as error:
            assert error.code == "rsync-failed"  # it would not follow a link that it met
    assert not swapping.done()
    await hosts.freeze(standby, 0)
    await swapping
    await hosts.seal(standby, 0)
    assert tried
    assert all(path.read_text() != SECRET for path in sealed_files(standby) if path.stat().st_size)


@fault(86)
async def test_names_that_mean_something_to_a_shell_arrive_as_they_are(hosts: Lab) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
    gpu.workspace.mkdir(exist_ok=True)
    for name in (
        b"a\nb",
        b"'q\"",
        b"$(touch owned)",
        b"`id`",
        b"-rf",
        b"--delete",
        b"\xff\xfe",
        b"x" * 255,
        "caf\u00e9".encode(),
        "cafe\u0301".encode(),
        b" ",
        b"*",
        b"\\#012",
    ):
        Path(os.fsdecode(os.path.join(os.fsencode(gpu.workspace), name))).write_bytes(name)  # noqa: PTH118
    await hosts.pull(standby, gpu, 0)
    assert tree_of(standby.sealed()) == tree_of(gpu.workspace)
    await hosts.promote(standby, 1, serve=True)
    assert tree_of(standby.workspace) == tree_of(gpu.workspace)
    candidate = await hosts.host(Role.GPU, name="gpu-1", epoch=1)
    await hosts.push(standby, candidate, 1, final=True)
    assert tree_of(candidate.workspace) == tree_of(gpu.workspace)
    assert not list(standby.root.glob("*/owned"))


@fault(87)
async def test_devices_and_pipes_are_left_out_and_links_lead_nowhere(hosts: Lab) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
    gpu.workspace.mkdir(exist_ok=True)
    os.mkfifo(gpu.workspace / "pipe")
    (gpu.workspace / "up").symlink_to("../../../../etc")
    (gpu.workspace / "passwd").symlink_to("/etc/passwd")
    (gpu.workspace / "kept").write_text("kept")
    await hosts.pull(standby, gpu, 0)
    sealed = standby.sealed()
    assert sorted(path.name for path in sealed.iterdir()) == ["kept", "passwd", "up"]
    assert str((sealed / "passwd").readlink()) == "/etc/passwd"
    listed = await hosts.ask(standby, CertificateRole.WRITE, 0, "generations")
    assert listed["generations"][0]["bytes"] == len("kept")


@fault(79)
async def test_a_file_that_is_written_while_it_is_copied_is_sealed_as_it_became(
    hosts: Lab,
) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True, furnish=slow_rsync(10_000))
    gpu.workspace.mkdir(exist_ok=True)
    checkpoint = gpu.workspace / "checkpoint"
    checkpoint.write_bytes(b"old " * (4 << 20))
    pull = asyncio.create_task(hosts.pull(standby, gpu, 0))
    await until(lambda: bool(list((standby.store / "staging").glob("*/tree/.checkpoint.*"))))
    with checkpoint.open("r+b") as file:
        file.write(b"new " * (4 << 20))
    answer = await pull
    assert (standby.sealed() / "checkpoint").read_bytes() == b"new " * (4 << 20)
    assert answer["files_changing"] == 1
