"""What a GPU's gate tells of changes, through the standby, while they happen."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.certificates import CertificateRole
from shared.machines import Role
from shared.ssh import GateError
from tests.support.hosts import Lab, LabHost, fill, processes_of
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

READ, WRITE = CertificateRole.READ, CertificateRole.WRITE


class Told:
    """What was told so far."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __call__(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    @property
    def paths(self) -> set[str]:
        return {path for line in self.lines for path in line["paths"]}


@asynccontextmanager
async def followed(
    hosts: Lab, standby: LabHost, gpu: LabHost, **more: object
) -> AsyncIterator[Told]:
    told = Told()
    request = await hosts.with_key(standby, 0, READ, source=gpu.peer(), **more)
    session = asyncio.create_task(
        hosts.ask(standby, WRITE, 0, "follow", request, timeout=60.0, on_progress=told)
    )
    await until(lambda: bool(told.lines) or session.done())
    try:
        yield told
    finally:
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)


async def pair(hosts: Lab) -> tuple[LabHost, LabHost]:
    standby = await hosts.host(Role.STANDBY, name="standby")
    gpu = await hosts.host(Role.GPU, name="gpu", adopted=True)
    fill(gpu.workspace)
    return standby, gpu


def _write(path: Path) -> None:
    path.write_text("new")


def _write_deep(directory: Path) -> None:
    directory.mkdir(parents=True)
    _write(directory / "deep")


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("more")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a new file": (lambda top: _write(top / "new.txt"), "new.txt"),
    "an append": (lambda top: _append(top / "old.txt"), "old.txt"),
    "a deletion": (lambda top: (top / "old.txt").unlink(), "old.txt"),
    "a rename": (lambda top: (top / "old.txt").rename(top / "renamed.txt"), "renamed.txt"),
    "new modes": (lambda top: (top / "old.txt").chmod(0o600), "old.txt"),
    "a symlink": (lambda top: (top / "link").symlink_to("/etc"), "link"),
    "a file deep in new directories": (
        lambda top: _write_deep(top / "a/b/c"),
        "a/b/c/deep",
    ),
    "a directory moved in": (
        lambda top: (top.parent / "tmp/moved").rename(top / "moved"),
        "moved/x",
    ),
    "a name that is no text": (
        lambda top: Path(os.fsdecode(os.fsencode(top) + b"/\xff\n'")).write_text("1"),
        os.fsdecode(b"\xff\n'"),
    ),
}


async def test_each_kind_of_change_is_told_while_it_happens(hosts: Lab) -> None:
    standby, gpu = await pair(hosts)
    for what, (change, path) in CHANGES.items():
        (gpu.workspace / "old.txt").write_text("old")
        (gpu.root / "tmp/moved").mkdir(exist_ok=True)
        (gpu.root / "tmp/moved/x").write_text("x")
        async with followed(hosts, standby, gpu) as told:
            change(gpu.workspace)
            await until(lambda told=told, path=path: path in told.paths)  # type: ignore[misc]
        assert not any(line["overflow"] for line in told.lines), what


async def test_changes_in_a_renamed_directory_have_its_new_name(hosts: Lab) -> None:
    standby, gpu = await pair(hosts)
    (gpu.workspace / "before").mkdir()
    async with followed(hosts, standby, gpu) as told:
        (gpu.workspace / "before").rename(gpu.workspace / "after")
        await until(lambda: "after" in told.paths)
        (gpu.workspace / "after/file").write_text("1")
        await until(lambda: "after/file" in told.paths)


async def test_nothing_is_told_of_what_no_copy_takes(hosts: Lab) -> None:
    standby, gpu = await pair(hosts)
    (gpu.workspace / "cache/old").mkdir(parents=True)
    async with followed(hosts, standby, gpu, excludes=["cache/", "*.tmp"]) as told:
        for name in ("cache/x", "cache/old/x", "x.tmp"):
            (gpu.workspace / name).write_text("1")
        (gpu.workspace / "deep/cache").mkdir(parents=True)
        (gpu.workspace / "deep/cache/x").write_text("1")
        (gpu.workspace / "last").write_text("1")
        await until(lambda: "last" in told.paths)
    assert told.paths == {"deep", "last"}


async def test_more_changes_than_can_be_told_are_only_said_to_be_many(hosts: Lab) -> None:
    standby, gpu = await pair(hosts)
    (gpu.root / "tmp/many").mkdir()
    for number in range(1500):
        (gpu.root / f"tmp/many/{number}").touch()
    async with followed(hosts, standby, gpu) as told:
        (gpu.root / "tmp/many").rename(gpu.workspace / "many")
        await until(lambda: any(line["overflow"] for line in told.lines))


async def test_a_workspace_that_vanishes_ends_the_watch_with_a_reason(hosts: Lab) -> None:
    standby, gpu = await pair(hosts)
    told = Told()
    request = await hosts.with_key(standby, 0, READ, source=gpu.peer())
    session = asyncio.create_task(
        hosts.ask(standby, WRITE, 0, "follow", request, timeout=60.0, on_progress=told)
    )
    await until(lambda: bool(told.lines))
    (gpu.root / "workspace").rename(gpu.root / "elsewhere")
    with pytest.raises(GateError) as error:
        await session
    assert error.value.code == "source-missing"


async def test_a_watch_ends_on_the_gpu_with_the_session_that_asked_for_it(hosts: Lab) -> None:
    standby, gpu = await pair(hosts)
    async with followed(hosts, standby, gpu):
        assert processes_of(gpu, b"dumont watch") or processes_of(gpu, b"--role read")
    await until(lambda: not processes_of(gpu, b"--role read"))


async def test_a_watch_that_is_not_ours_cannot_name_what_is_outside(hosts: Lab) -> None:
    standby, gpu = await pair(hosts)
    program = gpu.root / "opt/dumont/gate.pyz"
    for line in ('{"progress":{"paths":["../etc"],"overflow":false}}', "garbage", '{"progress":7}'):
        program.unlink(missing_ok=True)
        program.write_text(f"#!/usr/bin/env python3\nprint({line!r}, flush=True)\n")
        request = await hosts.with_key(standby, 0, READ, source=gpu.peer())
        with pytest.raises(GateError) as error:
            await hosts.ask(standby, WRITE, 0, "follow", request)
        assert error.value.code == "source-refused"
