"""A standby's disk that forgets: found by reading, made good if it can be, never promoted."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.machines import Role
from shared.ssh import GateError
from tests.support.faults import fault
from tests.support.hosts import Lab, LabHost, processes_of, tree_of
from tests.support.sampling import sampled
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

FIRST, SECOND = "e000000-00000001", "e000000-00000002"


async def two_generations(hosts: Lab) -> tuple[LabHost, LabHost]:
    """A standby with two generations: one file is in both, one was written between."""
    standby = await hosts.host(Role.STANDBY, name="standby")
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
    gpu.workspace.mkdir(exist_ok=True)
    (gpu.workspace / "kept").write_bytes(os.urandom(10_000))
    (gpu.workspace / "step").write_text("1111")
    await hosts.pull(standby, gpu, 0)
    (gpu.workspace / "step").write_text("2222")
    await hosts.pull(standby, gpu, 0)
    assert standby.generations == [FIRST, SECOND]
    await until(lambda: not processes_of(standby, b"gate.pyz"))  # nobody reads any more
    return standby, gpu


def flip(path: Path) -> None:
    """One bit, without a trace in size or times."""
    info = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def marked(standby: LabHost, generation: str) -> bool:
    return (standby.store / "generations" / generation / "damaged.json").exists()


@fault(81)
async def test_a_flipped_bit_is_found_and_the_generation_before_is_promoted(hosts: Lab) -> None:
    standby, gpu = await two_generations(hosts)
    flip(standby.sealed() / "step")
    flip(standby.store / "ready/tree/step")
    await gpu.machine.halt()
    await read_on(hosts, standby, lambda: marked(standby, SECOND))
    promoted = await hosts.promote(standby, 1, serve=True)
    assert (promoted["generation"], promoted["damaged"]) == (FIRST, [SECOND])
    assert (standby.workspace / "step").read_text() == "1111"
    assert tree_of(standby.workspace) == tree_of(standby.sealed(FIRST))
    assert await hosts.promote(standby, 1, serve=True) == promoted


@fault(81)
async def test_a_flipped_bit_is_made_good_from_the_private_copy(hosts: Lab) -> None:
    standby, gpu = await two_generations(hosts)
    before = tree_of(standby.sealed())
    flip(standby.sealed() / "kept")
    assert tree_of(standby.sealed(FIRST)) != tree_of(gpu.workspace)
    await read_on(hosts, standby, lambda: tree_of(standby.sealed()) == before)
    assert (standby.sealed(FIRST) / "kept").samefile(standby.sealed(SECOND) / "kept")
    promoted = await hosts.promote(standby, 1, serve=True)
    assert (promoted["generation"], promoted["damaged"]) == (SECOND, [])
    assert tree_of(standby.workspace) == before


@fault(81)
async def test_a_private_copy_with_a_flipped_bit_is_made_again(hosts: Lab) -> None:
    standby, gpu = await two_generations(hosts)
    flip(standby.store / "ready/tree/kept")
    await read_on(hosts, standby, lambda: not (standby.store / "ready/state.json").exists())
    assert tree_of(standby.sealed()) == tree_of(gpu.workspace)
    await hosts.promote(standby, 1, serve=True)
    assert tree_of(standby.workspace) == tree_of(gpu.workspace)


@fault(81)
async def test_what_is_damaged_is_copied_from_its_source_again(hosts: Lab) -> None:
    standby, gpu = await two_generations(hosts)
    flip(standby.sealed() / "kept")
    flip(standby.store / "ready/tree/kept")
    await read_on(hosts, standby, lambda: marked(standby, FIRST) and marked(standby, SECOND))
    answer = await hosts.pull(standby, gpu, 0)
    assert answer["changed"]
    assert answer["sequence"] == 3
    assert tree_of(standby.sealed()) == tree_of(gpu.workspace)
    promoted = await hosts.promote(standby, 1, serve=True)
    assert promoted["damaged"] == []
    assert tree_of(standby.workspace) == tree_of(gpu.workspace)


@pytest.mark.parametrize(
    "harm", sampled(["cut", "of another generation", "gone", "of another workspace"], 2)
)
@fault(82)
async def test_a_generation_whose_manifest_is_not_its_own_is_not_promoted(
    hosts: Lab, harm: str
) -> None:
    standby, _ = await two_generations(hosts)
    store = standby.store / "generations"
    manifest, seal = store / SECOND / "manifest.json", store / SECOND / "seal.json"
    match harm:
        case "cut":
            manifest.write_text(manifest.read_text()[:-40])
        case "of another generation":
            manifest.write_text((store / FIRST / "manifest.json").read_text())
        case "gone":
            manifest.unlink()
        case _:
            seal.write_text(seal.read_text().replace('"workspace":"train"', '"workspace":"other"'))
            assert "other" in seal.read_text()
    promoted = await hosts.promote(standby, 1, serve=True)
    assert (promoted["generation"], promoted["damaged"]) == (FIRST, [SECOND])
    assert (standby.workspace / "step").read_text() == "1111"


@fault(81)
@pytest.mark.parametrize("where", sampled(["the generation", "the private copy"], 1))
async def test_a_file_that_lost_its_end_is_seen_at_the_promotion_itself(
    hosts: Lab, where: str
) -> None:
    standby, _ = await two_generations(hosts)
    tree = standby.sealed() if where == "the generation" else standby.store / "ready/tree"
    with (tree / "step").open("r+b") as file:
        file.truncate(2)
    promoted = await hosts.promote(standby, 1, serve=True)
    kept = FIRST if where == "the generation" else SECOND
    assert promoted["generation"] == kept
    assert tree_of(standby.workspace) == tree_of(standby.sealed(kept))


@fault(81)
async def test_nothing_is_promoted_when_nothing_is_whole_and_people_are_told_what_to_do(
    hosts: Lab,
) -> None:
    standby, _ = await two_generations(hosts)
    for generation in standby.generations:
        (standby.store / "generations" / generation / "manifest.json").unlink()
    with pytest.raises(GateError) as refusal:
        await hosts.promote(standby, 1, serve=True)
    assert refusal.value.code == "damaged"
    assert refusal.value.hint


@fault(81)
async def test_a_damaged_generation_is_never_sent_back_as_the_last_one(hosts: Lab) -> None:
    standby = await hosts.host(Role.STANDBY, name="standby")
    await hosts.promote(standby, 0, serve=True)
    (standby.workspace / "mine").write_text("1111")
    await hosts.seal(standby, 0)
    candidate = await hosts.host(Role.GPU, name="gpu")
    flip(standby.sealed() / "mine")
    for _ in range(2):
        with pytest.raises(GateError) as refusal:
            await hosts.push(standby, candidate, 0, final=True)
        assert refusal.value.code == "damaged"
    assert not (candidate.root / "workspace/mine").exists()
    sealed = await hosts.seal(standby, 0)
    assert sealed["changed"]
    await hosts.push(standby, candidate, 0, final=True)
    assert (candidate.workspace / "mine").read_text() == "1111"


async def read_on(hosts: Lab, standby: LabHost, done: Callable[[], bool]) -> None:
    """Have the generations read from the start, as after each copy, also one that failed."""
    (standby.store / "scrub.json").unlink()
    with pytest.raises(GateError, match="nothing to seal"):
        await hosts.seal(standby, 0)
    await until(done)


@fault(74)
async def test_a_full_disk_costs_no_generation_and_is_got_over_when_there_is_less_to_copy(
    hosts: Lab,
) -> None:
    def furnish(root: Path) -> None:
        store = root / "var/lib/dumont"
        store.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=16m,mode=711", "tmpfs", str(store))

    standby = await hosts.host(Role.STANDBY, name="standby", furnish=furnish)
    try:
        gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
        gpu.workspace.mkdir(exist_ok=True)
        (gpu.workspace / "small").write_bytes(os.urandom(1 << 20))
        await hosts.pull(standby, gpu, 0)
        before = tree_of(standby.sealed())
        for number in range(10):
            (gpu.workspace / f"much-{number}").write_bytes(os.urandom(3 << 20))
        for _ in range(2):
            with pytest.raises(GateError) as refusal:
                await hosts.pull(standby, gpu, 0)
            assert (refusal.value.code, bool(refusal.value.hint)) == ("disk-full", True)
        assert standby.generations == [FIRST]
        assert tree_of(standby.sealed()) == before
        for number in range(10):
            (gpu.workspace / f"much-{number}").unlink()
        (gpu.workspace / "little").write_bytes(os.urandom(3 << 20))
        await hosts.pull(standby, gpu, 0)
        promoted = await hosts.promote(standby, 1, serve=True)
        assert promoted["generation"] == SECOND
        assert tree_of(standby.workspace) == tree_of(gpu.workspace)
    finally:
        run("umount", "-l", str(standby.store))


def run(*command: str) -> None:
    subprocess.run(command, check=True)
