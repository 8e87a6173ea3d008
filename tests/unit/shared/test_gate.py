"""The gate is many modules here and one file on a host, where nothing of ours is beside it."""

import ast
import json
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from services.recovery.adapters.authority import Authority
from shared import clock, gate, ssh
from shared.certificates import CertificateRole
from shared.gate.program import layout, leases, sessions
from shared.gate.program.refusals import Refusal
from shared.machines import WorkspaceName
from tests.support.faults import fault


def test_the_same_modules_are_packed_into_the_same_bytes() -> None:
    assert gate.source() == gate.source()


def test_it_knows_where_it_is_installed() -> None:
    assert layout.PROGRAM == gate.INSTALLED_AT


@pytest.mark.parametrize("arguments", [["install"], ["--workspace=w", "--role=read", "--epoch=0"]])
def test_it_starts_from_its_one_file_and_answers_in_words(
    tmp_path: Path, arguments: list[str]
) -> None:
    program = tmp_path / "gate.pyz"
    program.write_bytes(gate.source())
    done = subprocess.run(
        [sys.executable, "-I", "-S", program, *arguments],
        input=b"no request\n",
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    assert json.loads(done.stdout)["error"]["reason"]
    assert done.stderr == b""


def test_every_verb_that_can_be_asked_for_is_there() -> None:
    places = {verb: place for verbs in sessions.VERBS.values() for verb, place in verbs.items()}
    assert places.keys() == set(gate.Verb)
    for place in places.values():
        module, function = place.split(":")
        assert callable(getattr(import_module(f"shared.gate.program.{module}"), function))


@pytest.mark.parametrize("module", sorted(gate.PROGRAM.glob("*.py")), ids=lambda path: path.name)
def test_it_needs_nothing_but_itself_and_the_standard_library(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_bytes(), feature_version=(3, 9))):
        if isinstance(node, ast.Import):
            assert {name.name.split(".")[0] for name in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert (gate.PROGRAM / f"{node.module}.py").exists()
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).split(".")[0] in sys.stdlib_module_names


def test_every_role_opens_its_own_verbs_and_only_the_heartbeat_is_for_all() -> None:
    opened = {
        key: sorted(verb for verb in verbs if verb != gate.Verb.LOOK)
        for key, verbs in sessions.VERBS.items()
    }
    assert opened == {
        ("standby", "probe"): [],
        ("standby", "write"): ["follow", "generations", "keypair", "pull", "push", "seal"],
        ("standby", "promote"): ["freeze", "generations", "promote", "thaw"],
        ("gpu", "probe"): [],
        ("gpu", "read"): ["watch"],
        ("gpu", "write"): ["manifest", "place", "restore-begin"],
    }


class TestALease:
    def test_ends_with_the_earliest_end_that_it_was_given(self) -> None:
        lease = leases.Lease()
        lease.ends_at(time.time() + 60)
        lease.ends_at(time.time() + 30)
        lease.ends_at(time.time() + 90)
        assert 29 < lease.left() <= 30
        lease.demand()

    @fault(83)
    @pytest.mark.parametrize("jump", [-3600.0, 3600.0])
    def test_is_not_made_longer_by_a_clock_that_is_set(
        self, monkeypatch: pytest.MonkeyPatch, jump: float
    ) -> None:
        lease = leases.Lease()
        lease.ends_at(time.time() + 60)
        true_time = time.time
        monkeypatch.setattr(time, "time", lambda: true_time() + jump)
        assert lease.left() <= 60

    def test_that_is_over_is_told_with_what_to_do(self) -> None:
        lease = leases.Lease()
        lease.ends_at(time.time() - 1)
        with pytest.raises(Refusal) as refusal:
            lease.demand()
        assert refusal.value.code == "certificate-over"
        assert refusal.value.hint

    def test_knows_the_end_of_a_certificate_as_sshd_shows_it(self, tmp_path: Path) -> None:
        authority = Authority(
            tmp_path / "keys", epoch_of=lambda _: 0, now=clock.now, new_id=clock.new_id
        )
        identity = authority.identity(WorkspaceName("train"), 0, CertificateRole.PROBE)
        _, end = ssh.certificate_validity(identity.certificate)
        assert leases.certificate_end(identity.certificate) == end
        shown = tmp_path / "shown"
        shown.write_text(f"publickey {identity.certificate}\n")
        assert leases.shown_end(str(shown)) == end
        shown.write_text("publickey ssh-ed25519 AAAA\n")
        assert leases.shown_end(str(shown)) is None

    @pytest.mark.parametrize(
        "line", ["", "ssh-ed25519 AAAA", "ssh-ed25519-cert-v01@openssh.com", f"{'x' * 50} ===="]
    )
    def test_is_not_taken_from_what_is_no_certificate(self, line: str) -> None:
        with pytest.raises(ValueError, match="no ed25519 certificate"):
            leases.certificate_end(line)
