"""Going back: what was spoilt on the GPU is in the newest copies too, so an older one is served."""

import os

import pytest

from shared.certificates import CertificateRole
from shared.machines import Role
from tests.support.hosts import Lab, LabHost, tree_of

pytestmark = pytest.mark.anyio

GOOD, SPOILT, WORSE = "e000000-00000001", "e000000-00000002", "e000000-00000003"


async def spoilt(hosts: Lab) -> tuple[LabHost, LabHost]:
    """A standby whose newer copies are of files that were encrypted one by one."""
    standby = await hosts.host(Role.STANDBY, name="standby")
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
    gpu.workspace.mkdir(exist_ok=True)
    for name in ("model", "notes", "step"):
        (gpu.workspace / name).write_text(f"{name} as it was\n" * 100)
    await hosts.pull(standby, gpu, 0)
    for name in ("model", "notes"):
        (gpu.workspace / name).write_bytes(os.urandom(4_000))
        await hosts.pull(standby, gpu, 0)
    assert standby.generations == [GOOD, SPOILT, WORSE]
    return standby, gpu


async def test_the_copy_from_before_is_served_and_what_follows_is_built_on_it(hosts: Lab) -> None:
    standby, gpu = await spoilt(hosts)
    good, bad = tree_of(standby.sealed(GOOD)), tree_of(gpu.workspace)
    promoted = await hosts.promote(standby, 1, serve=True, generation=GOOD)
    assert (promoted["generation"], promoted["damaged"]) == (GOOD, [])
    assert tree_of(standby.workspace) == good
    sealed = await hosts.ask(standby, CertificateRole.WRITE, 1, "seal")
    assert (sealed["changed"], sealed["held"], sealed["bytes_changed"]) == (True, None, 0)
    assert tree_of(standby.sealed()) == good
    assert tree_of(standby.sealed(WORSE)) == bad, "kept, should going back be regretted"
    again = await hosts.promote(standby, 1, serve=True, generation=GOOD)
    assert again["generation"] == sealed["generation"], "asked twice, it is not undone"


async def test_a_source_that_grew_before_it_was_spoilt_does_not_hold_up_the_copies_of_the_old_tree(
    hosts: Lab,
) -> None:
    standby, gpu = await spoilt(hosts)
    for number in range(20):
        (gpu.workspace / f"ransom-{number}").write_bytes(os.urandom(10_000))
    await hosts.pull(standby, gpu, 0)
    await hosts.promote(standby, 1, serve=True, generation=GOOD)
    sealed = await hosts.ask(standby, CertificateRole.WRITE, 1, "seal")
    assert sealed["held"] is None
    assert tree_of(standby.sealed()) == tree_of(standby.workspace)


async def test_who_went_back_too_far_can_go_forward_again(hosts: Lab) -> None:
    standby, _ = await spoilt(hosts)
    better = tree_of(standby.sealed(SPOILT))
    await hosts.promote(standby, 1, serve=True, generation=GOOD)
    await hosts.promote(standby, 2, serve=False)
    promoted = await hosts.promote(standby, 3, serve=True, generation=SPOILT)
    assert promoted["generation"] == SPOILT
    assert tree_of(standby.workspace) == better


async def test_a_copy_that_was_let_go_of_meanwhile_gives_way_to_the_nearest_before_it(
    hosts: Lab,
) -> None:
    standby, _ = await spoilt(hosts)
    promoted = await hosts.promote(standby, 1, serve=True, generation="e000000-00000002x")
    assert promoted["generation"] == SPOILT


async def test_the_copies_are_listed_to_who_may_promote_them(hosts: Lab) -> None:
    standby, _ = await spoilt(hosts)
    told = await hosts.ask(standby, CertificateRole.PROMOTE, 0, "generations")
    assert [kept["generation"] for kept in told["generations"]] == [GOOD, SPOILT, WORSE]
    assert all(kept["taken_at"] <= kept["sealed_at"] for kept in told["generations"])
