"""Runs the demo from an empty machine to the verdict, and leaves nothing behind."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli import compose, text
from cli.client import Api
from cli.commands.workspace import wait_for_endpoint
from cli.connection import Target
from cli.demo import files, judge, stage, verdict
from cli.demo.chronicle import Chronicle
from cli.demo.control import Control
from cli.demo.incident import PATH, Incident, Measured
from cli.demo.liar import Liar
from cli.demo.meeting import Meeting
from cli.demo.options import Options
from cli.demo.show import Show
from cli.demo.silence import Silence
from cli.demo.stage import Stage
from cli.endpoint import own_key, public_key, upload
from cli.errors import CliError, UsageError
from shared.machines import WorkspaceName


async def run(options: Options, where: Target, show: Show) -> dict[str, Any]:
    """Play it and judge it; the contract's JSON object. Raises CliError before it can begin."""
    directory = Path(tempfile.mkdtemp(prefix="dumont-demo-"))
    directory.chmod(0o755)  # the embedded database runs as another user
    try:
        return await _in(directory, options, where, show)
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)


async def _in(directory: Path, options: Options, where: Target, show: Show) -> dict[str, Any]:
    sources = _workspaces(directory, options, show)
    async with AsyncExitStack() as stack:
        liar = None
        extra = {}
        if options.sabotage == "leave-endpoint":
            liar = Liar(directory / "liar.sock", directory / "stack" / "haproxy" / "runtime.sock")
            extra["DUMONT_HAPROXY_SOCKET"] = str(directory / "liar.sock")
            await stack.enter_async_context(_background(liar.run()))
        set_up = await stack.enter_async_context(_stage(directory, options, where, extra, show))
        api = await stack.enter_async_context(Api(set_up.api_url, set_up.api_key))
        control = await stack.enter_async_context(Control(set_up.control_url))
        await control.machines()  # nothing is asked of a stack whose clouds do not answer
        # On a stack that runs for longer, what happened before is another story, and a name
        # that was given up is not given again.
        before = int((await api.ready())["position"])
        company = Company(
            options=options,
            stage=set_up,
            api=api,
            control=control,
            people=replace(where, dir=directory / "people"),
            before=before,
            show=show,
            liar=liar,
            meeting=Meeting(options.workspaces),
        )
        show.chapter("registering: first a standby, then the files, then a GPU")
        names = _names(options.workspaces, before)
        plays = [company.play(n, name, sources[n]) for n, name in enumerate(names)]
        measured = dict(zip(names, await asyncio.gather(*plays), strict=True))
        timelines = {name: await _timeline(api, name) for name in names}
        bill = judge.bill(await control.ledger())
        if set_up.dir is None and not options.keep:
            await _remove(api, names, show)
        if options.keep:
            show.chapter(
                f"left running: dumont --url {set_up.api_url} status; files in {directory}"
            )
        return verdict.as_json(measured, timelines, bill, options)


def _names(count: int, before: int) -> list[WorkspaceName]:
    stem = f"demo-{before}" if before else "demo"
    if count == 1:
        return [WorkspaceName(stem)]
    return [WorkspaceName(f"{stem}-{number}") for number in range(1, count + 1)]


@dataclass(frozen=True, kw_only=True)
class Company:
    """Everybody who takes part, and what they share."""

    options: Options
    stage: Stage
    api: Api
    control: Control
    people: Target
    before: int
    show: Show
    liar: Liar | None
    meeting: Meeting

    async def play(self, number: int, name: WorkspaceName, source: Path) -> Measured:
        """The whole story of one workspace; what went wrong is its ``failure``."""
        options = self.options.of_one(number)
        alone = self.options.workspaces == 1
        show = self.show if alone else self.show.of(name)
        chronicle = Chronicle(self.api, show.event, workspace=name, after=self.before)
        measured = Measured()
        async with _background(chronicle.run()):
            try:
                access = await _register(name, options, self.people, self.api, source, show)
                story = Silence if options.silence else Incident
                await story(
                    workspace=name,
                    options=options,
                    stage=self.stage,
                    api=self.api,
                    control=self.control,
                    access=access,
                    chronicle=chronicle,
                    say=show.chapter,
                    meeting=self.meeting,
                    liar=self.liar,
                    measured=measured,
                ).play()
            except* (CliError, TimeoutError) as problems:
                measured.failure = "; ".join(_told(e) for e in problems.exceptions)
            finally:
                await self.meeting.leave()
        return measured


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_told(e) for e in error.exceptions)
    hint = getattr(error, "hint", "")
    return f"{error or 'it took too long'}" + (f" ({hint})" if hint else "")


def _workspaces(directory: Path, options: Options, show: Show) -> list[Path]:
    """The trees to protect: each of a fleet has its own content, so that none passes as another."""
    count = options.workspaces
    sources = [directory / f"workspace-{number}" for number in range(1, count + 1)]
    if options.workspace is not None:
        files.require_space(directory, files.size(options.workspace) * count)
        show.chapter(f"copying {options.workspace}")
        for source in sources:
            files.copy(options.workspace, source)
        return sources
    files.require_space(directory, options.big_file_bytes * count)
    each = "a workspace" if count == 1 else f"{count} workspaces, each"
    show.chapter(f"making {each} with a file of {text.size(options.big_file_bytes)}")
    for seed, source in enumerate(sources, start=1):
        files.build(
            source,
            big_file_bytes=options.big_file_bytes,
            small_files=options.small_files,
            seed=seed,
        )
    return sources


@asynccontextmanager
async def _stage(
    directory: Path, options: Options, where: Target, extra: dict[str, str], show: Show
) -> AsyncIterator[Stage]:
    """The embedded stack of the demo's own, or the one that ``--url`` names."""
    url = where.url or where.env.get("DUMONT_URL")
    if not url:
        show.chapter("starting the simulated clouds, NATS, Postgres, HAProxy and the four services")
        async with stage.embedded(directory, options, extra) as set_up:
            yield set_up
        return
    if options.sabotage == "leave-endpoint" or (options.fault or "").startswith(("crash", "hap")):
        raise UsageError("this fault needs the embedded stack", "run it without --url")
    connection = where.connection()
    clouds = compose.simulated_clouds(connection.url, where.env)
    control_url = options.control_url or where.env.get("DUMONT_CONTROL_URL")
    if not control_url and clouds is not None:
        control_url = clouds.control_url
    if not control_url:
        raise UsageError(
            "the demo loses simulated machines: it needs the simulator's control port",
            "give --control-url, or set DUMONT_CONTROL_URL",
        )
    yield Stage(
        api_url=connection.url,
        api_key=connection.key,
        control_url=control_url,
        vast_url=where.env.get("DUMONT_VAST_URL") or (clouds.vast_url if clouds else ""),
        vast_key=where.env.get("DUMONT_VAST_API_KEY") or (clouds.vast_key if clouds else ""),
        dir=None,
    )


@asynccontextmanager
async def _background(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _register(
    name: WorkspaceName, options: Options, where: Target, api: Api, source: Path, show: Show
) -> Any:
    """Register the workspace and send its files through its endpoint, as a person would."""
    key = own_key(where.layout)
    policy = {**options.policy_of_each, "ssh_keys": [public_key(key)]}
    body = {"name": name, "origin": "uploaded", "path": PATH, "policy": policy}
    await api.settled(await api.register(body), timeout=30.0)
    access = await wait_for_endpoint(api, where, name, key, options.patience)
    sent = 0

    def through(count: int) -> None:
        nonlocal sent
        sent += count
        show.progress(f"uploaded {text.size(sent)}")

    await upload(access, source, PATH, on_bytes=through)
    await api.settled(await api.request(name, "uploaded"), timeout=30.0)
    return access


async def _remove(api: Api, names: Sequence[WorkspaceName], show: Show) -> None:
    """Leave a stack that is not ours as it was: without our workspaces and their machines."""
    for name in names:
        show.chapter(f"removing {name}")
        with contextlib.suppress(CliError):
            await api.settled(await api.remove(name), timeout=30.0)


async def _timeline(api: Api, name: WorkspaceName) -> list[dict[str, Any]]:
    """The whole timeline in the contract's words; empty when the api is gone."""
    entries: list[dict[str, Any]] = []
    with contextlib.suppress(CliError):
        async for page in api.timeline_pages(name):
            entries += [{"at": e["at"], "event": e["event"], "text": e["text"]} for e in page]
    return entries
