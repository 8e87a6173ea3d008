"""The doctor: what it finds has a name, and what is wrong has a remedy."""

import json
from pathlib import Path

import pytest

from cli import doctor
from cli.doctor import Health
from tests.unit.cli.conftest import Dumont


def test_without_a_stack_it_checks_the_machine_and_is_content(dumont: Dumont) -> None:
    result = dumont("doctor", "-o", "json")
    findings = {finding["check"]: finding for finding in json.loads(result.out)}
    assert result.code == 0
    assert findings["python"]["health"] == "ok"
    assert findings["Postgres"]["health"] == "ok"
    assert findings["stack"]["health"] == "warning"
    assert "dumont up --embedded" in findings["stack"]["hint"]


def test_every_key_that_is_missing_is_named() -> None:
    said = " ".join(f.detail for f in doctor.providers({}))
    for name in ("DUMONT_VAST_API_KEY", "DUMONT_VAST_READ_KEY", "DUMONT_GCE_PROJECT"):
        assert name in said


def test_a_key_is_never_shown(tmp_path: Path) -> None:
    kept = tmp_path / "key"
    kept.write_text("from-a-file")
    env = {"DUMONT_VAST_API_KEY": "spends-money", "DUMONT_VAST_READ_KEY_FILE": str(kept)}
    findings = doctor.providers(env)
    assert [f.health for f in findings[:2]] == [Health.OK, Health.OK]
    assert not [f for f in findings if "spends-money" in f.detail or "from-a-file" in f.detail]


def test_a_missing_credentials_file_is_a_failure() -> None:
    env = {"DUMONT_GCE_PROJECT": "p", "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json"}
    assert doctor.providers(env)[-1].health is Health.FAILED


@pytest.mark.parametrize(
    ("version", "health"),
    [
        ("3.1.3", Health.FAILED),
        ("3.2.7", Health.WARNING),
        ("3.5.0", Health.OK),
        ("10.0", Health.OK),
    ],
)
def test_an_rsync_that_may_meet_a_rented_host_is_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, health: Health
) -> None:
    program = tmp_path / "rsync"
    program.write_text(f"#!/bin/sh\necho 'rsync  version {version}  protocol version 32'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.rsync().health is health


def test_what_is_not_installed_comes_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert doctor.rsync().hint == "apt-get install rsync"
    assert doctor.ssh().hint == "apt-get install openssh-client"


def test_nobody_at_a_port_is_a_failure() -> None:
    assert doctor.reachable("nats", "127.0.0.1", 1).health is Health.FAILED
