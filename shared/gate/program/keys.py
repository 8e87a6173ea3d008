"""Keys that are made on the host itself: their private halves never leave it."""

from __future__ import annotations

import os
import shutil
import subprocess

from .answers import Answer, one_line
from .epochs import demand_epoch
from .host import Session
from .layout import KEYS
from .locks import store_lock
from .refusals import Refusal


def key_of(epoch: int) -> str:
    return f"{KEYS}/e{epoch}/id"


def keypair(session: Session, _payload: Answer) -> Answer:
    """The key of this epoch, made here on first asking; its private half never leaves."""
    key = key_of(session.epoch)
    with store_lock():
        demand_epoch(session.epoch)
        if not os.path.exists(f"{key}.pub"):
            shutil.rmtree(os.path.dirname(key), ignore_errors=True)
            os.makedirs(os.path.dirname(key), 0o700)
            make_key(key, f"{session.host.workspace}-e{session.epoch}")
        with open(f"{key}.pub", encoding="ascii") as file:
            return {"public_key": file.read().strip()}


def make_key(path: str, comment: str) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path]
    made = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if made.returncode != 0:
        raise Refusal("unsuitable", f"ssh-keygen failed: {one_line(made.stderr)}")


def single(text: object) -> str:
    """A key or certificate line as it came, if it is one line."""
    line = str(text).strip()
    if not line or "\n" in line or "\r" in line:
        raise Refusal("bad-request", "a key or certificate must be exactly one line")
    return line
