"""Making a finished copy a generation: whole or not at all, and only under the current epoch."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

from .answers import iso
from .epochs import demand_epoch
from .files import discard, durable_json, empty_trash, flush_to_disk, fsync_directory
from .generations import Generation, generations, newest_generation
from .layout import GENERATIONS, RETIRED, STAGING
from .leases import lease
from .locks import store_lock
from .manifests import FilesByPath, bytes_changed, count, manifest_sha256
from .retention import prune


def seal(
    epoch: int, staging: str, before: FilesByPath, files: FilesByPath, facts: dict[str, Any]
) -> tuple[Generation, dict[str, Any]]:
    """Make a finished copy a generation: flushed first, then moved under the lock."""
    last = newest_generation()
    sequence = last.sequence + 1 if last and last.epoch == epoch else 1
    generation = Generation(f"e{epoch:06d}-{sequence:08d}", epoch, sequence)
    file_count, byte_count = count(files)
    sealed = {
        **facts,
        "generation": generation.id,
        "epoch": epoch,
        "sequence": sequence,
        "files": file_count,
        "bytes": byte_count,
        "bytes_changed": bytes_changed(before, files),
        "manifest_sha256": manifest_sha256(files),
        "sealed_at": iso(time.time_ns()),
    }
    durable_json(f"{staging}/manifest.json", {"files": files})
    durable_json(f"{staging}/seal.json", sealed)
    flush_to_disk(staging)
    with store_lock():
        demand_epoch(epoch)
        lease.demand()
        os.rename(staging, f"{GENERATIONS}/{generation.id}")
        fsync_directory(GENERATIONS)
    return generation, sealed


def drop_attempts() -> None:
    """Give back the room of copies that did not become a generation."""
    for name in os.listdir(STAGING):
        discard(f"{STAGING}/{name}")
    empty_trash()


def tidy(epoch: int) -> None:
    """Delete what no later attempt can use."""
    drop_attempts()
    if any(generation.epoch == epoch for generation in generations()):
        shutil.rmtree(RETIRED, ignore_errors=True)
    prune()
    empty_trash()
