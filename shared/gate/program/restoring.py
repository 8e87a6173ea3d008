"""The candidate's side of a restore: into a directory of its own, then in place by a rename."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import Any

from .answers import Answer
from .files import durable_json, fsync_directory, read_json
from .host import Session
from .jobs import end_other_jobs
from .manifests import count, manifest_sha256, take_manifest
from .refusals import Refusal


def restore_begin(session: Session, payload: Answer) -> Answer:
    """Make the directory that an attempt restores to, or find it as this attempt left it."""
    attempt, path = int(payload["attempt"]), session.host.path
    directory = attempt_directory(session, attempt)
    if session.host.adopted:
        raise Refusal("target-not-ours", "this host brought its data: nothing is restored to it")
    if os.path.ismount(path):
        raise Refusal(
            "unsuitable", f"{path} is a mount of its own: nothing can be put in its place"
        )
    end_other_jobs()
    if read_json(f"{directory}/marker.json") != marker_of(session, attempt):
        if os.path.isdir(directory) and os.listdir(directory):
            raise Refusal("target-not-ours", f"{directory} holds something else")
        os.makedirs(directory, 0o755, exist_ok=True)
        free = shutil.disk_usage(directory).free
        if free < int(payload.get("bytes", 0)):
            raise Refusal("disk-full", f"{free} bytes are free, {payload['bytes']} are needed")
        durable_json(f"{directory}/marker.json", marker_of(session, attempt))
    if not os.path.lexists(f"{directory}/tree"):
        take_back(path, directory)
        os.makedirs(f"{directory}/tree", 0o755, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/placed.json")
    return {"directory": directory}


def manifest(session: Session, payload: Answer) -> Answer:
    """What arrived, by hash. Only what changed since it was last asked is read again."""
    directory = begun_attempt(session, payload)
    end_other_jobs()  # a stream that was cut must not write behind the hashes, nor once in place
    before = read_json(f"{directory}/hashes.json") or {}
    now: dict[str, list[Any]] = {}

    def known(relative: str, info: os.stat_result) -> str | None:
        mark = [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
        now[relative] = mark
        cached = before.get(relative)
        return str(cached[4]) if cached and cached[:4] == mark else None

    files = take_manifest(f"{directory}/tree", known)
    hashes = {path: [*mark, files[path]["sha256"]] for path, mark in now.items()}
    durable_json(f"{directory}/hashes.json", hashes)
    file_count, byte_count = count(files)
    answer: Answer = {
        "manifest_sha256": manifest_sha256(files),
        "files": file_count,
        "bytes": byte_count,
    }
    if payload.get("full"):
        answer["files"] = files
    return answer


def place(session: Session, payload: Answer) -> Answer:
    """Put the restored tree at the workspace's path; what was there is renamed aside."""
    directory, path = begun_attempt(session, payload), session.host.path
    if not os.path.lexists(f"{directory}/tree") and os.path.exists(f"{directory}/placed.json"):
        return {"path": path}
    if os.path.lexists(path):
        try:
            os.rmdir(path)
        except OSError:
            os.rename(path, f"{directory}/before-{time.time_ns()}")
    os.chmod(f"{directory}/tree", 0o755)  # noqa: S103 - as any top of a workspace
    durable_json(f"{directory}/placed.json", {})
    os.rename(f"{directory}/tree", path)
    fsync_directory(os.path.dirname(path))
    return {"path": path}


def attempt_directory(session: Session, attempt: int) -> str:
    """Where an attempt restores to, beside the workspace: never over other data."""
    return f"{session.host.path.rstrip('/')}.dumont/e{session.epoch}-a{attempt}"


def marker_of(session: Session, attempt: int) -> Answer:
    return {"workspace": session.host.workspace, "epoch": session.epoch, "attempt": attempt}


def begun_attempt(session: Session, payload: Answer) -> str:
    """The directory of an attempt that was begun here. Raises Refusal ``target-not-ours``."""
    attempt = int(payload["attempt"])
    directory = attempt_directory(session, attempt)
    if read_json(f"{directory}/marker.json") != marker_of(session, attempt):
        raise Refusal("target-not-ours", f"{directory} was not made by this attempt")
    return directory


def take_back(path: str, directory: str) -> None:
    """Undo ``place`` for another pass: the way back was put off, or its last answer was lost.

    Nobody works here yet: before the endpoint leads here the standby's epoch is raised, and with
    that no push of this epoch is left.
    """
    if os.path.exists(f"{directory}/placed.json") and os.path.lexists(path):
        os.rename(path, f"{directory}/tree")
