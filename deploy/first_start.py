"""Prepares the volumes of the compose stack before anything else in it starts.

Passwords are made at random the first time and kept; the servers' configurations are written anew
each time, by the same generators as those of the embedded stack. Every container has a user of
its own, who can read one directory here: each is handed its own secrets and no others.
Runs as root, without a network, to its end; doing it again changes nothing.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.embedded.control import new_installation
from cli.embedded.files import secret, write_private
from cli.embedded.postgres import ROLES, SUPERUSER, roles_sql
from shared.bus.permissions import ADMIN, USERS, ServerConfig, password_file
from shared.environment import Environment, SettingsError
from shared.haproxy_config import haproxy_config

HANDED_OUT = Path("/run/dumont")
"""A directory for each container, and ``vault`` with everything, for this program alone."""

GIVEN = Path("/run/secrets")
"""The providers' keys as the person gave them: empty files where there are none."""

PERSON = Path("/run/person")
"""A directory of the person who started the stack, for what they need to reach it."""

NATS_STORE = Path("/volumes/nats")
RECOVERY_KEYS = Path("/volumes/keys")
RUNTIME_SOCKET = Path("/run/haproxy/runtime.sock")


@dataclass(frozen=True, slots=True)
class Owner:
    """The user that a container runs as."""

    uid: int
    gid: int

    @classmethod
    def parse(cls, text: str) -> "Owner":
        """From ``UID:GID``. Raises SettingsError."""
        uid, _, gid = text.partition(":")
        if not (uid.isdecimal() and gid.isdecimal()):
            raise SettingsError(f"{text!r} is not UID:GID")
        return cls(int(uid), int(gid))


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Everything that is secret in a stack, made once."""

    installation: str
    api_key: str = field(repr=False)
    nats: Mapping[str, str] = field(repr=False)
    postgres: Mapping[str, str] = field(repr=False)
    given: Mapping[str, str] = field(repr=False)

    @classmethod
    def kept_in(cls, vault: Path, installation: str) -> "Secrets":
        """What the vault holds; what it lacks is made at random. Raises OSError."""
        vault.mkdir(mode=0o700, exist_ok=True)
        keys = ("vast_api_key", "vast_read_key", "google", "google_read", "notice_url")
        return cls(
            installation=installation or kept_name(vault / "installation"),
            api_key=secret(vault / "api_key", prefix="dk_"),
            nats={user: secret(vault / f"nats_{user}") for user in USERS},
            postgres={role: secret(vault / f"postgres_{role}") for role in ROLES},
            given={key: (GIVEN / key).read_text() for key in keys},
        )


def kept_name(path: Path) -> str:
    """What the labels of this stack's machines begin with, made the first time."""
    if not path.exists():
        write_private(path, new_installation())
    return path.read_text()


def contents(known: Secrets, endpoint_ports: tuple[int, ...]) -> dict[str, dict[str, str]]:
    """For each container the files that are handed to it: its own and no others."""
    nats = ServerConfig(
        listen="0.0.0.0:4222", store="/data", passwords="./passwords.conf", monitor="127.0.0.1:8222"
    )
    return {
        "nats": {"nats.conf": nats.render(), "passwords.conf": password_file(known.nats)},
        "postgres": {
            "password": known.postgres[SUPERUSER],
            "roles.sql": roles_sql(known.postgres),
        },
        "haproxy": {
            "haproxy.cfg": haproxy_config(
                ports=endpoint_ports, runtime=str(RUNTIME_SOCKET), runtime_mode=0o660
            )
        },
        "setup": {
            "nats_password": known.nats[ADMIN],
            "owner_password": known.postgres["owner"],
        },
        "health": {
            "nats_password": known.nats["health"],
            "vast_read_key": known.given["vast_read_key"],
            "google.json": known.given["google_read"],
        },
        "sync": {"nats_password": known.nats["sync"]},
        "recovery": {
            "nats_password": known.nats["recovery"],
            "log_password": known.postgres["recovery"],
            "vast_api_key": known.given["vast_api_key"],
            "notice_url": known.given["notice_url"],
            "google.json": known.given["google"],
            "settings": f"DUMONT_INSTALLATION={known.installation}\n",
        },
        "api": {
            "nats_password": known.nats["api"],
            "log_password": known.postgres["api"],
            "api_key": known.api_key,
        },
    }


def hand_out(directory: Path, files: Mapping[str, str], owner: Owner) -> None:
    """Make a directory hold exactly these files, for its owner's eyes alone. Raises OSError."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for path in directory.iterdir():
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        replace(directory / name, text, owner, mode=0o400)
    give(directory, owner, mode=0o500)


def replace(path: Path, text: str, owner: Owner, *, mode: int) -> None:
    """Replace a file whole; nobody but its owner can ever read it. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    give(new, owner, mode)
    new.replace(path)


def give(path: Path, owner: Owner, mode: int) -> None:
    """Hand a file or the top of a volume to whoever works with it."""
    os.chown(path, owner.uid, owner.gid)
    path.chmod(mode)


def tell_the_person(api_url: str, api_key: str) -> None:
    """Leave address and key to whoever owns the directory that is there for them."""
    place = PERSON.stat()
    person = Owner(place.st_uid, place.st_gid)
    replace(PERSON / "api_key", f"{api_key}\n", person, mode=0o600)
    replace(PERSON / "stack.json", json.dumps({"api_url": api_url}) + "\n", person, mode=0o600)


def prepare(env: Environment) -> None:
    """All of it. Raises OSError, SettingsError, ValueError."""
    known = Secrets.kept_in(HANDED_OUT / "vault", env.text("INSTALLATION", ""))
    files = contents(known, env.ports("ENDPOINT_PORTS", "20000-20009"))
    owners = {name: Owner.parse(env.text(f"OWNER_{name.upper()}")) for name in files}
    for name, owner in owners.items():
        hand_out(HANDED_OUT / name, files[name], owner)
    give(NATS_STORE, owners["nats"], mode=0o700)
    give(RECOVERY_KEYS, owners["recovery"], mode=0o700)
    # Recovery reaches the socket in it as a member of the load balancer's group.
    give(RUNTIME_SOCKET.parent, owners["haproxy"], mode=0o750)
    tell_the_person(f"http://{env.text('API_ADDRESS')}", known.api_key)


if __name__ == "__main__":
    try:
        prepare(Environment(os.environ))
    except (OSError, ValueError) as error:
        sys.exit(f"dumont first start: {error}")
