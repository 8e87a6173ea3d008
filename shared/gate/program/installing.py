"""``install``: making a machine a host of a workspace. May be repeated."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys

from .answers import Answer, one_line
from .epochs import demand_not_over
from .files import durable_write
from .host import Host
from .keys import make_key, single
from .layout import (
    EPOCH,
    ETC,
    GENERATIONS,
    HOST,
    HOST_KEY,
    JOBS,
    KEYS,
    LIVE,
    PEOPLE,
    PEOPLE_KEYS,
    PROGRAM,
    READY,
    STAGING,
    STORE,
)
from .locks import store_lock
from .people import open_account
from .promotion import raise_epoch
from .refusals import Refusal
from .sshd import admit

PROTECTED_HARDLINKS = "/proc/sys/fs/protected_hardlinks"


def install(payload: Answer) -> Answer:
    """Make this host one of a workspace; may be repeated. Run as root, not through sshd's keys.

    Without a certificate it only makes the host key and says what it is; with it, everything.
    """
    host = Host(
        workspace=str(payload["workspace"]),
        role=str(payload["role"]),
        machine=str(payload["machine"]),
        path=os.path.normpath(str(payload["path"])),
        adopted=bool(payload.get("adopted")),
        user_ca=single(payload["user_ca"]),
    )
    versions = demand_tools(host, str(payload["rsync_oldest"]))
    os.makedirs(f"{ETC}/keys", 0o755, exist_ok=True)
    if not os.path.exists(f"{HOST_KEY}.pub"):
        make_key(HOST_KEY, f"{host.workspace}.dumont")
    with open(f"{HOST_KEY}.pub", encoding="ascii") as file:
        answer = {"host_public_key": file.read().strip(), "account": PEOPLE, **versions}
    if payload.get("host_certificate"):
        furnish(host, int(payload["epoch"]), payload["people_keys"])
        admit(host, single(payload["host_certificate"]))
    return answer


def demand_tools(host: Host, rsync_oldest: str) -> Answer:
    """What the data plane needs here. Raises Refusal ``unsuitable``.

    ``rsync_oldest``: an older one can be led out of its directory by the host it receives from.
    """
    if os.geteuid() != 0:
        raise Refusal("unsuitable", "this must run as root", "log in as root or with sudo")
    if host.role == "standby":
        protect_hardlinks()
    for tool in ("rsync", "ssh", "ssh-keygen", "useradd"):
        if shutil.which(tool) is None:
            raise Refusal("unsuitable", f"{tool} is not installed", f"install {tool} on this host")
    told = subprocess.run(["rsync", "--version"], capture_output=True, check=False).stdout
    found = re.search(rb"version v?(\d+)\.(\d+)\.(\d+)", told)
    version = tuple(int(part) for part in found.groups()) if found else (0, 0, 0)
    text = ".".join(str(part) for part in version)
    if host.role == "standby" and version < tuple(map(int, rsync_oldest.split("."))):
        raise Refusal(
            "unsuitable",
            f"rsync {text} is too old to receive from a rented host",
            f"install rsync {rsync_oldest} or newer on the standby",
        )
    return {"rsync": text, "python": ".".join(str(part) for part in sys.version_info[:3])}


def protect_hardlinks() -> None:
    """Let no user give a file of another a name in the promoted tree, which root reads."""
    with contextlib.suppress(FileNotFoundError), open(PROTECTED_HARDLINKS, "r+") as file:
        if file.read().strip() == "0":
            file.seek(0)
            file.write("1")


def furnish(host: Host, epoch: int, people_keys: list[str]) -> None:
    """Directories, account, keys and the gate itself."""
    for path, mode in (
        (STORE, 0o711),
        (JOBS, 0o700),
        (KEYS, 0o700),
        (GENERATIONS, 0o700),
        (STAGING, 0o700),
        (READY, 0o700),
        (os.path.dirname(PROGRAM), 0o755),
    ):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
    make_account(host)
    started = os.path.realpath(sys.argv[0])
    if started != PROGRAM:
        with open(started, "rb") as file:
            durable_write(PROGRAM, file.read(), 0o755)
    durable_write(HOST, json.dumps(host._asdict()) + "\n", 0o644)
    durable_write(PEOPLE_KEYS, "".join(f"{single(key)}\n" for key in people_keys), 0o644)
    with store_lock():
        if os.path.exists(EPOCH):
            demand_not_over(epoch)
        raise_epoch(epoch, host)
        serves = os.path.isdir(f"{LIVE}/tree") and not os.path.exists(f"{LIVE}/frozen.json")
        if host.role == "gpu" or serves:
            open_account()


def make_account(host: Host) -> None:
    """The account of people; on a GPU it is another name of root, since the GPU is theirs."""
    try:
        uid = pwd.getpwnam(PEOPLE).pw_uid
    except KeyError:
        argv = ["useradd", "--password", "*", "--shell", "/bin/bash"]
        if host.role == "gpu":
            argv += ["-o", "-u", "0", "-g", "0", "-M", "-d", "/root"]
        else:
            argv += ["-U", "-m", "-d", f"/home/{PEOPLE}"]
        made = subprocess.run([*argv, PEOPLE], capture_output=True, check=False)
        if made.returncode != 0:
            raise Refusal(
                "unsuitable", f"cannot make the account {PEOPLE}: {one_line(made.stderr)}"
            ) from None
        return
    if (uid == 0) != (host.role == "gpu"):
        raise Refusal(
            "unsuitable",
            f"an account {PEOPLE} with uid {uid} is there, which does not fit a {host.role}",
            "rename or remove that account",
        )
