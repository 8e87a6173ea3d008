"""Who gets which certificate, judged by OpenSSH's own tools and by a real sshd."""

import json
import multiprocessing
import re
import stat
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from services.recovery.adapters.authority import Authority, AuthorityError
from shared import clock, ssh
from shared.certificates import (
    ENTITLED,
    REPLY,
    REQUEST,
    CertificateReply,
    CertificateRequest,
    CertificateRole,
    principal,
)
from shared.machines import WorkspaceName
from tests.support.ssh_server import gate_line, make_host_key, running_sshd

pytestmark = pytest.mark.anyio

WORKSPACE = WorkspaceName("train")
EPOCHS = {WORKSPACE: 3}


def authority(directory: Path) -> Authority:
    return Authority(directory / "keys", epoch_of=EPOCHS.get, now=clock.now, new_id=clock.new_id)


def request(
    role: CertificateRole, *, epoch: int = 3, workspace: str = WORKSPACE, public_key: str = ""
) -> CertificateRequest:
    return CertificateRequest(
        workspace=WorkspaceName(workspace),
        epoch=epoch,
        role=role,
        public_key=public_key or ssh.new_key()[1],
    )


def described(certificate: str, directory: Path) -> str:
    """What ``ssh-keygen -L`` makes of a certificate line, in one line."""
    path = directory / "certificate.pub"
    path.write_text(certificate + "\n")
    done = subprocess.run(
        ["ssh-keygen", "-L", "-f", path], capture_output=True, text=True, check=True
    )
    return re.sub(r"\s+", " ", done.stdout)


class TestAServiceIsGiven:
    @pytest.mark.parametrize("role", CertificateRole)
    @pytest.mark.parametrize("asker", ["health", "sync", "recovery", "api", "nobody"])
    def test_only_the_roles_it_is_entitled_to(
        self, tmp_path: Path, asker: str, role: CertificateRole
    ) -> None:
        reply = authority(tmp_path).sign_user(request(role), asker)
        assert bool(reply.certificate) == (role in ENTITLED.get(asker, frozenset()))
        assert bool(reply.error) != bool(reply.certificate)

    @pytest.mark.parametrize(
        ("asker", "role", "ahead"),
        [
            ("health", CertificateRole.PROBE, True),
            ("sync", CertificateRole.READ, False),
            ("sync", CertificateRole.WRITE, False),
            ("recovery", CertificateRole.PROBE, True),
            ("recovery", CertificateRole.PROMOTE, True),
        ],
    )
    def test_the_current_epoch_and_the_coming_one_only_where_it_must_run_ahead(
        self, tmp_path: Path, asker: str, role: CertificateRole, ahead: bool
    ) -> None:
        ca = authority(tmp_path)
        given = {e for e in range(6) if ca.sign_user(request(role, epoch=e), asker).certificate}
        assert given == ({3, 4} if ahead else {3})

    def test_nothing_for_a_workspace_that_is_not_known(self, tmp_path: Path) -> None:
        reply = authority(tmp_path).sign_user(
            request(CertificateRole.PROBE, workspace="stranger"), "health"
        )
        assert reply == CertificateReply(error="workspace 'stranger' is not known")

    def test_nothing_for_what_is_no_public_key(self, tmp_path: Path) -> None:
        reply = authority(tmp_path).sign_user(
            request(CertificateRole.PROBE, public_key="ssh-ed25519 nonsense"), "health"
        )
        assert not reply.certificate
        assert "not a public key" in reply.error

    def test_a_short_certificate_for_one_principal_that_names_the_asker_and_opens_nothing_more(
        self, tmp_path: Path
    ) -> None:
        reply = authority(tmp_path).sign_user(request(CertificateRole.READ), "sync")
        text = described(reply.certificate, tmp_path)
        assert "ssh-ed25519-cert-v01@openssh.com user certificate" in text
        assert 'Key ID: "sync train-e3-read"' in text
        assert "Principals: train-e3-read Critical Options: (none) Extensions: (none)" in text
        assert re.search(r"Serial: [1-9]\d*", text)
        after, before = ssh.certificate_validity(reply.certificate)
        now = int(clock.now().timestamp())
        assert now - 62 <= after <= now - 60
        assert now + 898 <= before <= now + 900


class TestOverTheBus:
    async def test_a_request_is_answered(self, tmp_path: Path) -> None:
        body = json.dumps(
            {"workspace": "train", "epoch": 3, "role": "probe", "public_key": ssh.new_key()[1]}
        ).encode()
        reply = REPLY.validate_json(await authority(tmp_path).answer(body, "health"))
        assert reply.certificate
        assert not reply.error

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"workspace":"train","role":"root"}'])
    async def test_what_is_no_request_is_refused_with_the_reason(
        self, tmp_path: Path, body: bytes
    ) -> None:
        reply = REPLY.validate_json(await authority(tmp_path).answer(body, "health"))
        assert "not readable" in reply.error
        assert not reply.certificate

    async def test_an_authority_without_its_keys_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("in the way")
        body = REQUEST.dump_json(request(CertificateRole.PROBE))
        reply = REPLY.validate_json(await authority(tmp_path).answer(body, "health"))
        assert "cannot sign now" in reply.error
        assert not reply.certificate


class TestAHost:
    def test_is_certified_under_the_one_name_of_its_workspace_for_a_day(
        self, tmp_path: Path
    ) -> None:
        ca = authority(tmp_path)
        certificate = ca.sign_host(WORKSPACE, ssh.new_key()[1])
        text = described(certificate, tmp_path)
        assert "host certificate" in text
        assert "Principals: train.dumont Critical Options: (none) Extensions: (none)" in text
        after, before = ssh.certificate_validity(certificate)
        assert before - after == 24 * 3600 + 60

    def test_of_another_workspace_has_another_authority_than_users_and_neighbours(
        self, tmp_path: Path
    ) -> None:
        ca = authority(tmp_path)
        keys = {
            ca.user_ca_public(),
            ca.bootstrap_public(),
            ca.host_ca_public(WORKSPACE),
            ca.host_ca_public(WorkspaceName("other")),
        }
        assert len(keys) == 4

    def test_cannot_choose_a_name_that_leaves_the_directory(self, tmp_path: Path) -> None:
        with pytest.raises(AuthorityError, match="not usable"):
            authority(tmp_path).host_ca_public(WorkspaceName("../user_ca"))

    @pytest.mark.parametrize("known", [True, False])
    async def test_is_accepted_by_openssh_exactly_under_the_right_authority(
        self, tmp_path: Path, known: bool
    ) -> None:
        ca = authority(tmp_path)
        public_key = make_host_key(tmp_path)
        certificate = ca.sign_host(WORKSPACE if known else WorkspaceName("other"), public_key)
        identity = ca.identity(WORKSPACE, 3, CertificateRole.PROBE)
        key = tmp_path / "id"
        key.touch(mode=0o600)
        key.write_text(identity.private_key)
        (tmp_path / "id-cert.pub").write_text(identity.certificate + "\n")
        (tmp_path / "known_hosts").write_text(
            f"@cert-authority train.dumont {ca.host_ca_public(WORKSPACE)}\n"
        )
        async with running_sshd(
            tmp_path, host_public_key=public_key, host_certificate=certificate
        ) as server:
            name = principal(WORKSPACE, 3, CertificateRole.PROBE)
            server.authorized_keys.write_text(
                gate_line(name, ca.user_ca_public(), ["echo", "gate"])
            )
            done = subprocess.run(
                [
                    "ssh", "-F", "none", "-i", key, "-p", str(server.port),
                    "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
                    "-o", f"UserKnownHostsFile={tmp_path / 'known_hosts'}",
                    "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes",
                    "-o", "HostKeyAlias=train.dumont", f"root@{server.address}", "anything",
                ],
                capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        assert (done.returncode == 0 and done.stdout == "gate\n") == known


class TestTheKeys:
    def test_are_private_files_and_last(self, tmp_path: Path) -> None:
        first = authority(tmp_path)
        made = (first.user_ca_public(), first.bootstrap_public(), first.host_ca_public(WORKSPACE))
        again = authority(tmp_path)
        assert made == (
            again.user_ca_public(),
            again.bootstrap_public(),
            again.host_ca_public(WORKSPACE),
        )
        modes = {
            stat.S_IMODE(path.stat().st_mode)
            for path in (tmp_path / "keys").rglob("*")
            if path.is_file()
        }
        assert modes == {0o600}
        assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
        assert sorted(p.name for p in (tmp_path / "keys").rglob("*") if p.is_file()) == [
            "bootstrap",
            "train",
            "user_ca",
        ]

    def test_are_one_however_many_recoveries_make_them_at_once(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("fork")
        with context.Pool(4) as pool:
            seen = pool.map(_user_ca_of, [tmp_path] * 16, chunksize=1)
        assert len(set(seen)) == 1
        assert [p.name for p in (tmp_path / "keys").iterdir()] == ["user_ca"]

    def test_that_others_can_read_are_not_used(self, tmp_path: Path) -> None:
        authority(tmp_path).user_ca_public()
        (tmp_path / "keys" / "user_ca").chmod(0o640)
        with pytest.raises(AuthorityError, match="mode 0600"):
            authority(tmp_path).user_ca_public()

    def test_in_a_directory_open_to_others_are_not_used(self, tmp_path: Path) -> None:
        (tmp_path / "keys").mkdir(mode=0o755)
        with pytest.raises(AuthorityError, match="mode 0700"):
            authority(tmp_path).user_ca_public()

    def test_that_are_damaged_are_told_by_path_and_never_shown(self, tmp_path: Path) -> None:
        authority(tmp_path).user_ca_public()
        path = tmp_path / "keys" / "user_ca"
        path.write_text(path.read_text().replace("PRIVATE", "TORN"))
        with pytest.raises(AuthorityError) as error:
            authority(tmp_path).user_ca_public()
        assert str(path) in str(error.value)
        assert path.read_text().splitlines()[1] not in str(error.value)

    def test_of_recovery_itself_are_refused_beyond_the_coming_epoch(self, tmp_path: Path) -> None:
        with pytest.raises(AuthorityError, match="not current"):
            authority(tmp_path).identity(WORKSPACE, 5, CertificateRole.PROMOTE)

    def test_never_appear_when_an_identity_is_shown(self, tmp_path: Path) -> None:
        identity = authority(tmp_path).identity(WORKSPACE, 3, CertificateRole.PROBE)
        assert "PRIVATE" not in repr(identity)


def test_a_host_certificate_may_live_as_long_as_the_caller_says(tmp_path: Path) -> None:
    certificate = authority(tmp_path).sign_host(
        WORKSPACE, ssh.new_key()[1], lifetime=timedelta(days=30)
    )
    after, before = ssh.certificate_validity(certificate)
    assert before - after == 30 * 24 * 3600 + 60


def _user_ca_of(directory: Path) -> str:
    return authority(directory).user_ca_public()
