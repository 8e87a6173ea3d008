"""The disk of a fresh machine: a small Linux whose programs are this computer's, read-only.

Everything that a machine can change (``/etc``, ``/root``, ``/home``, ``/var``, ``/opt`` ...) is its
own; ``/usr`` and what belongs to it is shown to it by bind mounts when it boots.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from simulator import tree

PATH = "/opt/simulated/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USR_PARTS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_OWN_DIRECTORIES = [
    "boot",
    "dev",
    "etc/default",
    "etc/ssh/sshd_config.d",
    "etc/pam.d",
    "etc/skel",
    "etc/profile.d",
    "home",
    "media",
    "mnt",
    "opt/simulated/bin",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "usr",
    "var/cache",
    "var/lib",
    "var/log",
    "var/mail",
    "var/spool",
    "var/tmp",
    "var/backups",
    "tmp",
]
_SHOWN_ETC = ("ssl", "ca-certificates", "alternatives", "ld.so.conf.d", "security")
_COPIED_ETC = [
    "adduser.conf",
    "bash.bashrc",
    "debian_version",
    "default/useradd",
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "login.defs",
    "pam.conf",
    "protocols",
    "resolv.conf",
    "services",
    "ssh/moduli",
    "timezone",
]
_PAM = """\
auth       sufficient pam_rootok.so
auth       required   pam_unix.so
account    required   pam_unix.so
password   required   pam_unix.so
session    required   pam_env.so
session    required   pam_permit.so
"""
_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
_SSHD_CONFIG = """\
Include /etc/ssh/sshd_config.d/*.conf
ListenAddress 127.0.0.1:22
PidFile /run/sshd.pid
HostKey /etc/ssh/ssh_host_ed25519_key
UsePAM yes
PermitRootLogin {root_login}
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""
_NVIDIA_SMI = """\
#!/bin/sh
# What a simulated card says of itself; --query-gpu answers any list of known fields.
fields=
for argument; do
  case $argument in --query-gpu=*) fields=${argument#*=};; esac
done
if [ -z "$fields" ]; then echo "NVIDIA-SMI (simulated): @NAME@, @MEMORY@ MiB"; exit 0; fi
line=
for field in $(echo "$fields" | tr , ' '); do
  case $field in
    name|gpu_name) value='@NAME@';; memory.total) value=@MEMORY@;; memory.used) value=1024;;
    utilization.gpu) value=37;; utilization.memory) value=12;; temperature.gpu) value=61;;
    power.draw) value=180.50;; driver_version) value=570.86.15;; count) value=1;; index) value=0;;
    uuid|gpu_uuid) value=GPU-00000000-0000-0000-0000-000000000000;; *) value='[N/A]';;
  esac
  line="${line:+$line, }$value"
done
echo "$line"
"""


def build(root: Path, *, hostname: str, root_login: str) -> None:
    """Make the disk of a machine at ``root``, which must not exist yet.

    ``root_login`` is sshd's ``PermitRootLogin``: images of rented GPUs let root in by key, those of
    Compute Engine say ``no``.
    """
    root.mkdir(parents=True)
    for directory in _OWN_DIRECTORIES:
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "root").chmod(0o700)
    for directory in ("tmp", "var/tmp"):
        (root / directory).chmod(0o1777)
    (root / "var/run").symlink_to("/run")
    (root / "var/lock").symlink_to("/run/lock")
    _show_programs(root)
    _write_etc(root / "etc", hostname)
    (root / "etc/ssh/sshd_config").write_text(_SSHD_CONFIG.format(root_login=root_login))
    _make_host_key(root / "etc/ssh/ssh_host_ed25519_key")


def binds() -> list[str]:
    """The directories of this computer that every machine sees, read-only."""
    parts = [f"/{part}" for part in _USR_PARTS if _is_own_directory(part)]
    shown = [f"/etc/{name}" for name in _SHOWN_ETC if Path("/etc", name).is_dir()]
    return ["/usr", *parts, *shown, *_python_elsewhere()]


def _is_own_directory(part: str) -> bool:
    place = Path("/", part)
    return place.is_dir() and not place.is_symlink()


def _python_elsewhere() -> list[str]:
    """Our own Python's home, when ``/usr`` has no ``python3`` to offer."""
    has_one = any(Path(place, "python3").exists() for place in ("/usr/bin", "/usr/local/bin"))
    return [] if has_one else [sys.base_prefix]


def _show_programs(root: Path) -> None:
    for part in _USR_PARTS:
        place = Path("/", part)
        if place.is_symlink():
            (root / part).symlink_to(place.readlink())
    for source in binds():
        (root / source.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for prefix in _python_elsewhere():
        (root / "root").chmod(0o711)
        interpreter = f"{prefix}/bin/python3"
        (root / "opt/simulated/bin/python3").symlink_to(interpreter)


def _write_etc(etc: Path, hostname: str) -> None:
    for name in _COPIED_ETC:
        source = Path("/etc", name)
        if source.is_file():
            shutil.copyfile(source, etc / name)
    (etc / "hostname").write_text(f"{hostname}\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n")
    (etc / "nsswitch.conf").write_text(_NSSWITCH)
    (etc / "environment").write_text(f'PATH="{PATH}"\n')
    (etc / "profile").write_text(f'PATH="{PATH}"\nexport PATH\n')
    (etc / "os-release").symlink_to("../usr/lib/os-release")
    for service in ("sshd", "su", "su-l", "runuser", "runuser-l", "other"):
        (etc / "pam.d" / service).write_text(_PAM)
    _write_accounts(etc)


def _write_accounts(etc: Path) -> None:
    """The system accounts of this computer, all locked, and none of its people."""
    people = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    system = [fields for fields in people if _is_system(fields)]
    if not any(fields[0] == "sshd" for fields in system):
        system.append(["sshd", "x", "999", "65534", "", "/run/sshd", "/usr/sbin/nologin"])
    for fields in system:
        if fields[0] == "root":
            fields[5:] = ["/root", "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"]
    groups = [line.split(":") for line in Path("/etc/group").read_text().splitlines()]
    kept = [[*fields[:3], ""] for fields in groups if _is_system(fields)]
    (etc / "passwd").write_text("".join(":".join(fields) + "\n" for fields in system))
    (etc / "shadow").write_text("".join(f"{fields[0]}:*:19700:0:99999:7:::\n" for fields in system))
    (etc / "group").write_text("".join(":".join(fields) + "\n" for fields in kept))
    (etc / "gshadow").write_text("".join(f"{fields[0]}:*::\n" for fields in kept))
    for name in ("shadow", "gshadow"):
        (etc / name).chmod(0o640)


def _is_system(fields: list[str]) -> bool:
    return (
        len(fields) > 3 and fields[2].isdigit() and (int(fields[2]) < 1000 or fields[2] == "65534")
    )


def _make_host_key(path: Path) -> None:
    command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path))
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def listen(root: Path, address: str, port: int) -> None:
    """Tell the machine's sshd where to listen from its next start on."""
    config = tree.resolve(root, "/etc/ssh/sshd_config")
    lines = [
        f"ListenAddress {address}:{port}" if line.startswith("ListenAddress ") else line
        for line in config.read_text().splitlines()
    ]
    config.write_text("\n".join(lines) + "\n")


def authorize(root: Path, user: str, keys: Iterable[str]) -> None:
    """Write a user's ``~/.ssh/authorized_keys``; the user must exist."""
    home, uid, gid = _home(root, user)
    directory = tree.resolve(root, f"{home}/.ssh")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = tree.resolve(root, f"{home}/.ssh/authorized_keys")
    file.write_text("".join(f"{key.strip()}\n" for key in keys))
    file.chmod(0o600)
    for path in (directory, file):
        shutil.chown(path, uid, gid)


def add_user(root: Path, user: str) -> None:
    """Make an ordinary account with a home, as the Compute Engine guest agent does."""
    passwd = tree.resolve(root, "/etc/passwd")
    lines = [line.split(":") for line in passwd.read_text().splitlines()]
    if any(fields[0] == user for fields in lines):
        return
    uid = max([999, *(int(fields[2]) for fields in lines if int(fields[2]) < 60_000)]) + 1
    for name, line in (
        ("passwd", f"{user}:x:{uid}:{uid}::/home/{user}:/bin/bash"),
        ("group", f"{user}:x:{uid}:"),
        ("shadow", f"{user}:*:19700:0:99999:7:::"),
        ("gshadow", f"{user}:!::"),
    ):
        with tree.resolve(root, f"/etc/{name}").open("a") as file:
            file.write(f"{line}\n")
    home = tree.resolve(root, f"/home/{user}")
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    shutil.chown(home, uid, uid)


def _home(root: Path, user: str) -> tuple[str, int, int]:
    for line in tree.resolve(root, "/etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == user:
            return fields[5], int(fields[2]), int(fields[3])
    raise LookupError(f"no user {user!r} on this machine")


def install_gpu(root: Path, *, name: str, memory_mib: int) -> None:
    """Give the machine an ``nvidia-smi`` and the empty ``/workspace`` of a rented GPU."""
    script = root / "opt/simulated/bin/nvidia-smi"
    script.write_text(_NVIDIA_SMI.replace("@NAME@", name).replace("@MEMORY@", str(memory_mib)))
    script.chmod(0o755)
    (root / "workspace").mkdir()
