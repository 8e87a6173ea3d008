"""``dumont workspace``: add, list, show, remove."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli import text
from cli.client import Api, ApiError, Json
from cli.commands.asking import report
from cli.commands.options import Name, Output, Yes, checked_name, target
from cli.commands.reading import show_status, show_workspace
from cli.connection import Target
from cli.endpoint import (
    Access,
    access,
    answers,
    check_source,
    endpoint_of,
    own_key,
    public_key,
    public_key_line,
    require_tools,
    upload,
)
from cli.errors import CliError, UsageError
from cli.hosts import checked_host
from cli.messages import confirm, note
from cli.output import Format, print_json
from cli.policy_options import parse_policy
from shared.machines import WorkspaceName

_POLL = 0.3
_AWAITS_UPLOAD = frozenset({"provisioning standby", "waiting for the upload"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Files to send into a new workspace, with whose key, and how long to wait for its endpoint."""

    source: Path
    key: Path
    timeout: float


def add(
    ctx: typer.Context,
    name: Name,
    *,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Directory whose files it begins with."),
    ] = None,
    path: Annotated[str, typer.Option(help="Where it is on its hosts.")] = "/workspace",
    ssh: Annotated[
        str | None,
        typer.Option(metavar="USER@HOST:PORT", help="A GPU that already holds the data."),
    ] = None,
    standby: Annotated[
        str | None,
        typer.Option(metavar="USER@HOST:PORT", help="A standby of yours [default: rented]."),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the policy.")
    ] = None,
    ssh_key: Annotated[
        list[Path] | None, typer.Option(help="Public key file of somebody who may log in.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(help="Your private key [default: one that dumont makes].")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the endpoint before an upload.")
    ] = 600.0,
    output: Output = Format.TABLE,
) -> None:
    """Protect a directory: an empty one, yours (--from), or that of a GPU you have (--ssh)."""
    where = target(ctx)
    if source is not None and ssh is not None:
        raise UsageError("--from and --ssh exclude each other", "a GPU already holds its data")
    body = registration(checked_name(name), path, policy or [])
    if source is not None:
        source = check_source(source)
        require_tools("rsync", "ssh")
        body["origin"] = "uploaded"
    if ssh is not None:
        body |= {"origin": "adopted", "adopted": {"ssh": checked_host(ssh)}}
    if standby is not None:
        body["standby"] = {"ssh": checked_host(standby)}
    where.connection()  # nobody needs a key of ours when there is no api to speak to
    key = identity or own_key(where.layout)
    let_in(body["policy"], [public_key(key), *(public_key_line(file) for file in ssh_key or [])])
    files = None if source is None else Upload(source=source, key=key, timeout=timeout)
    state = asyncio.run(_add(where, body, files))
    if output is Format.JSON:
        print_json(state)
    else:
        show_status([state])


def registration(name: WorkspaceName, path: str, policy: list[str]) -> Json:
    """What the api wants to know of an empty workspace. Raises UsageError."""
    if not path.startswith("/"):
        raise UsageError(f"--path {path!r} is not absolute", "give it as /workspace")
    return {"name": name, "origin": "empty", "path": path, "policy": parse_policy(policy)}


def let_in(policy: Json, public_keys: list[str]) -> None:
    """Let these keys in too, beside those that the policy names already."""
    known = policy.setdefault("ssh_keys", [])
    known += [line for line in dict.fromkeys(public_keys) if line not in known]


async def _add(where: Target, body: Json, files: Upload | None) -> Json:
    name = WorkspaceName(str(body["name"]))
    async with where.api() as api:
        if files is None or not await _awaits_upload(api, name):
            await _name_our_key(api, _own_hosts(body))
            report(await api.settled(await api.register(body)), f"workspace {name}")
        if files is not None:
            await _send_files(api, where, name, files)
        return await api.workspace(name)


def _own_hosts(body: Json) -> list[str]:
    """The hosts of the user's own in a registration, as user@host:port."""
    return [str(body[part]["ssh"]) for part in ("adopted", "standby") if part in body]


async def _name_our_key(api: Api, hosts: list[str]) -> None:
    """Say which key the stack comes with: a host that does not know it is waited for in vain."""
    key = (await api.ready()).get("ssh_public_key") if hosts else None
    for host in hosts if key else []:
        user, _, place = host.rpartition("@")
        note(f"let this key in as {user} on {place}: {str(key).strip()}")


async def _awaits_upload(api: Api, name: WorkspaceName) -> bool:
    """Whether the workspace is there already and an earlier upload did not end."""
    try:
        state = await api.workspace(name)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    waiting = state.get("origin") == "uploaded" and state.get("step") in _AWAITS_UPLOAD
    if waiting:
        note(f"workspace {name} awaits its files: going on with the upload")
    return waiting


async def _send_files(api: Api, where: Target, name: WorkspaceName, files: Upload) -> None:
    reached = await wait_for_endpoint(api, where, name, files.key, files.timeout)
    state = await api.workspace(name)
    note(f"uploading {files.source}")
    sent = await upload(reached, files.source, str(state["path"]))
    note(f"uploaded {text.size(sent)}")
    report(await api.settled(await api.request(name, "uploaded")), f"upload to {name}")


async def wait_for_endpoint(
    api: Api, where: Target, workspace: WorkspaceName, key: Path, timeout: float
) -> Access:
    """Wait until the workspace lets us in through its endpoint. Raises CliError."""
    deadline = time.monotonic() + timeout
    doing, said = "", "it has no endpoint yet"
    while time.monotonic() < deadline:
        state = await api.workspace(workspace)
        if (now_doing := str(state.get("step") or state.get("phase"))) != doing:
            doing = now_doing
            note(f"{workspace}: {doing}")
        endpoint = endpoint_of(state)
        if endpoint is not None and state.get("serving"):
            reached = access(where.layout, endpoint, key)
            refusal = await answers(reached)
            if refusal is None:
                return reached
            said = refusal
        await asyncio.sleep(_POLL)
    raise CliError(
        f"{workspace} did not let us in within {text.duration(timeout)}: {said}",
        f"see: dumont status {workspace}; then send the files with the same command again",
    )


def list_(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """All workspaces, one line each."""

    async def states() -> list[Json]:
        async with target(ctx).api() as api:
            return await api.workspaces()

    found = asyncio.run(states())
    if output is Format.JSON:
        print_json(found)
    else:
        show_status(found)


def show(ctx: typer.Context, name: Name, output: Output = Format.TABLE) -> None:
    """Everything about one workspace."""
    workspace = checked_name(name)

    async def state() -> Json:
        async with target(ctx).api() as api:
            return await api.workspace(workspace)

    found = asyncio.run(state())
    if output is Format.JSON:
        print_json(found)
    else:
        show_workspace(found)


def remove(ctx: typer.Context, name: Name, yes: Yes = False) -> None:
    """Give a workspace up: its rented machines are destroyed, with the copies on them."""
    where = target(ctx)
    workspace = checked_name(name)
    confirm(f"{name} is given up: its rented machines and the copies on them end", yes=yes)

    async def ask() -> Json:
        async with where.api() as api:
            return await api.settled(await api.remove(workspace))

    report(asyncio.run(ask()), f"remove {name}")
