"""Runs the demo from an empty machine to the verdict, and leaves nothing behind."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli import compose, text
from cli.client import Api
from cli.commands.workspace import wait_for_endpoint
from cli.connection import Target
from cli.demo import files, stage, verdict
from cli.demo.chronicle import Chronicle
from cli.demo.control import Control
from cli.demo.incident import PATH, Incident, Measured
from cli.demo.liar import Liar
from cli.demo.options import FAST_POLICY, Options
from cli.demo.show import Show
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
    source = _workspace(directory, options, show)
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
        name = WorkspaceName(f"demo-{before}" if before else "demo")
        chronicle = Chronicle(api, show.event, workspace=name, after=before)
        await stack.enter_async_context(_background(chronicle.run()))
        measured = Measured()
        try:
            people = replace(where, dir=directory / "people")
            access = await _register(name, options, people, api, source, show)
            incident = Incident(
                workspace=name,
                options=options,
                stage=set_up,
                control=control,
                access=access,
                chronicle=chronicle,
                say=show.chapter,
                liar=liar,
                measured=measured,
            )
            await incident.play()
        except* (CliError, TimeoutError) as problems:
            measured.failure = "; ".join(_told(e) for e in problems.exceptions)
        result = verdict.as_json(measured, await _timeline(api, name))
        if set_up.dir is None and not options.keep:
            await _remove(api, name, show)
        if options.keep:
            show.chapter(
                f"left running: dumont --url {set_up.api_url} status; files in {directory}"
            )
        return result


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_told(e) for e in error.exceptions)
    hint = getattr(error, "hint", "")
    return f"{error or 'it took too long'}" + (f" ({hint})" if hint else "")


def _workspace(directory: Path, options: Options, show: Show) -> Path:
    source = directory / "workspace"
    if options.workspace is not None:
        files.require_space(directory, files.size(options.workspace))
        show.chapter(f"copying {options.workspace}")
        files.copy(options.workspace, source)
    else:
        files.require_space(directory, options.big_file_bytes)
        show.chapter(f"making a workspace with a file of {text.size(options.big_file_bytes)}")
        files.build(source, big_file_bytes=options.big_file_bytes, small_files=options.small_files)
    return source


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
    show.chapter("registering the workspace: first a standby, then its files, then a GPU")
    key = own_key(where.layout)
    policy: dict[str, object] = {} if options.real_time else {**FAST_POLICY}
    policy.update(options.policy)
    policy["ssh_keys"] = [public_key(key)]
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


async def _remove(api: Api, name: WorkspaceName, show: Show) -> None:
    """Leave a stack that is not ours as it was: without the workspace and its machines."""
    show.chapter("removing the workspace")
    with contextlib.suppress(CliError):
        await api.settled(await api.remove(name), timeout=30.0)


async def _timeline(api: Api, name: WorkspaceName) -> list[dict[str, Any]]:
    """The whole timeline in the contract's words; empty when the api is gone."""
    entries: list[dict[str, Any]] = []
    with contextlib.suppress(CliError):
        async for page in api.timeline_pages(name):
            entries += [{"at": e["at"], "event": e["event"], "text": e["text"]} for e in page]
    return entries
