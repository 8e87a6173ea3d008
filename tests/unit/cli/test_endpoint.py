"""How people reach a workspace: strict about who answers, through every switch."""

import stat
import subprocess
from pathlib import Path

import pytest

from cli.embedded.layout import Layout
from cli.endpoint import (
    Access,
    Endpoint,
    access,
    check_source,
    endpoint_of,
    own_key,
    public_key,
    public_key_line,
    rsync_argv,
    upload_error,
)
from cli.errors import CliError, UsageError
from cli.hosts import checked_host
from shared.machines import WorkspaceName

CA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHostCa"
ENDPOINT = Endpoint(workspace=WorkspaceName("train"), host="127.0.0.1", port=20000, host_ca=CA)


@pytest.fixture
def reached(tmp_path: Path) -> Access:
    return access(Layout.of(tmp_path), ENDPOINT, None)


def test_the_host_is_known_by_its_authority_under_one_name(reached: Access) -> None:
    assert reached.known_hosts.read_text() == f"@cert-authority train.dumont {CA}\n"
    assert stat.S_IMODE(reached.known_hosts.stat().st_mode) == 0o600


def test_ssh_itself_reads_the_config_as_it_is_meant(reached: Access, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(reached.ssh_config())
    said = subprocess.run(
        ["ssh", "-G", "-F", str(config), "train"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in (
        "hostname 127.0.0.1",
        "port 20000",
        "user workspace",
        "hostkeyalias train.dumont",
        "stricthostkeychecking true",
        f"userknownhostsfile {reached.known_hosts}",
    ):
        assert line in said


def test_the_users_own_ssh_configuration_is_not_asked(reached: Access) -> None:
    argv = reached.ssh_argv("true")
    assert argv[:3] == ["ssh", "-F", "/dev/null"]
    assert argv[-2:] == ["train.dumont", "true"]


def test_a_state_without_host_ca_is_no_endpoint_yet() -> None:
    state = {"name": "train", "endpoint": {"host": "127.0.0.1", "port": 20000}}
    assert endpoint_of(state) is None
    assert endpoint_of({**state, "endpoint": {**state["endpoint"], "host_ca": CA}}) == ENDPOINT  # type: ignore[dict-item]
    assert endpoint_of({"name": "train", "endpoint": None}) is None


def test_a_key_of_our_own_is_made_once_and_then_used(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path / "not there yet")
    key = own_key(layout)
    assert own_key(layout) == key
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert public_key(key).startswith("ssh-ed25519 ")
    assert access(layout, ENDPOINT, None).identity == key
    key.with_name("id_ed25519.pub").unlink()
    assert public_key(key).startswith("ssh-ed25519 ")


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    key = own_key(Layout.of(tmp_path))
    with pytest.raises(UsageError, match="not one public key line"):
        public_key_line(key)


def test_rsync_speaks_through_the_checked_connection(reached: Access) -> None:
    argv = rsync_argv(reached, Path("/data"), "/workspace/")
    shell = argv[argv.index("-e") + 1]
    assert shell.startswith("ssh -F /dev/null")
    assert "StrictHostKeyChecking=yes" in shell
    assert "BatchMode=yes" in shell
    assert argv[-2:] == ["/data/", "train.dumont:/workspace/"]
    assert "--delete" not in argv


def test_a_path_with_spaces_reaches_ssh_whole(tmp_path: Path) -> None:
    spaced = access(Layout.of(tmp_path / "with space"), ENDPOINT, None)
    shell = rsync_argv(spaced, Path("/data"), "/workspace")
    assert f"'UserKnownHostsFile=\"{spaced.known_hosts}\"'" in shell[shell.index("-e") + 1]


@pytest.mark.parametrize(
    ("status", "stderr", "says"),
    [
        (11, "rsync: write failed: No space left on device (28)", "disk of the standby is full"),
        (255, "Connection refused", "did not let us in"),
        (23, 'rsync: open "/x" failed: Permission denied (13)', "could be read"),
        (12, "", "rsync ended with 12"),
    ],
)
def test_a_failed_upload_says_why_and_what_to_do(status: int, stderr: str, says: str) -> None:
    error = upload_error(status, stderr)
    assert isinstance(error, CliError)
    assert says in str(error)
    assert error.hint


def test_a_source_is_checked_before_anything_is_asked(tmp_path: Path) -> None:
    assert check_source(tmp_path) == tmp_path
    with pytest.raises(UsageError, match="no directory"):
        check_source(tmp_path / "missing")


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ("gpu.example", "root@gpu.example:22"),
        ("me@gpu.example:2222", "me@gpu.example:2222"),
        ("[2001:db8::1]", "root@[2001:db8::1]:22"),
        ("[2001:db8::1]:40", "root@[2001:db8::1]:40"),
    ],
)
def test_a_host_is_filled_in(given: str, whole: str) -> None:
    assert checked_host(given) == whole


@pytest.mark.parametrize("given", ["", "me@", "gpu:0", "gpu:ssh", "gpu:70000", "[2001:db8::1]:x"])
def test_what_is_no_host_is_refused(given: str) -> None:
    with pytest.raises(UsageError):
        checked_host(given)
