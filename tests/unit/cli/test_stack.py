"""What an embedded stack is made of, and who gets to know what."""

import socket
import stat
from pathlib import Path

import pytest

from cli.embedded import control
from cli.embedded.layout import Layout, default_dir
from cli.embedded.ports import free_block, parse_range
from cli.embedded.report import with_password
from cli.embedded.settings import LOOPBACK, Settings, read_settings, write_settings
from cli.embedded.stack import Plan, plan
from cli.errors import CliError
from tests.support.faults import fault

CALLER = {
    "PATH": "/bin",
    "SECRET_OF_SOMEBODY": "x",
    "DUMONT_LEASE_SECONDS": "2",
    "DUMONT_URL": "http://elsewhere",
    "DUMONT_VAST_URL": "http://vast",
    "DUMONT_VAST_API_KEY": "spends",
    "DUMONT_VAST_READ_KEY": "reads",
    "DUMONT_GCE_PROJECT": "project",
    "GOOGLE_APPLICATION_CREDENTIALS": "/key.json",
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.of(tmp_path)
    layout.make()
    return layout


def settings(**changes: object) -> Settings:
    given: dict[str, object] = {
        "installation": "dumonttest",
        "api_port": 20001,
        "nats_port": 20002,
        "postgres_port": 20003,
        "endpoint_ports": (20010, 20012),
    }
    return Settings(**{**given, **changes})  # type: ignore[arg-type]


def environment(made: Plan, name: str) -> dict[str, str]:
    return dict(next(child.env for child in made.children if child.name == name))


@fault(98)
def test_only_recovery_gets_the_key_that_can_spend(layout: Layout) -> None:
    made = plan(layout, settings(), CALLER)
    holders = [child.name for child in made.children if "DUMONT_VAST_API_KEY" in child.env]
    assert holders == ["recovery-1"]


def test_health_gets_the_key_that_reads_and_the_others_know_no_provider(layout: Layout) -> None:
    made = plan(layout, settings(), CALLER)
    assert environment(made, "health-1")["DUMONT_VAST_READ_KEY"] == "reads"
    for name in ("sync-1", "api-1", "nats", "postgres", "haproxy", "setup"):
        known = set(environment(made, name))
        assert not known & {"DUMONT_VAST_READ_KEY", "DUMONT_VAST_URL", "DUMONT_GCE_PROJECT"}
        assert "GOOGLE_APPLICATION_CREDENTIALS" not in known


def test_a_service_inherits_the_products_settings_and_nothing_private(layout: Layout) -> None:
    known = environment(plan(layout, settings(), CALLER), "sync-1")
    assert known["DUMONT_LEASE_SECONDS"] == "2"
    assert "SECRET_OF_SOMEBODY" not in known
    assert "DUMONT_URL" not in known


def test_a_variable_that_was_asked_for_wins_over_ours(layout: Layout) -> None:
    caller = {**CALLER, "DUMONT_HAPROXY_SOCKET": "/else.sock", "EXTRA": "1"}
    asked = settings(variables=("DUMONT_HAPROXY_SOCKET", "EXTRA", "DUMONT_VAST_API_KEY"))
    made = plan(layout, asked, caller)
    assert environment(made, "recovery-1")["DUMONT_HAPROXY_SOCKET"] == "/else.sock"
    assert environment(made, "sync-1")["EXTRA"] == "1"
    assert "DUMONT_VAST_API_KEY" not in environment(made, "sync-1")


@fault(98)
def test_no_secret_is_on_a_command_line_or_in_the_run_file(layout: Layout) -> None:
    made = plan(layout, settings(), CALLER)
    secrets = [path.read_text().strip() for path in layout.secrets.iterdir()]
    assert len(secrets) == len(set(secrets)) == 12
    words = [word for child in made.children for word in child.argv()] + [str(made.facts)]
    assert not [word for word in words for secret in secrets if secret in word]
    for path in layout.secrets.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_replicas_are_children_of_their_own(layout: Layout) -> None:
    made = plan(layout, settings(replicas={"recovery": 2, "health": 2}), CALLER)
    names = [child.name for child in made.children]
    assert [n for n in names if "-" in n] == [
        "health-1",
        "health-2",
        "sync-1",
        "recovery-1",
        "recovery-2",
        "api-1",
    ]
    pair = [environment(made, name) for name in ("recovery-1", "recovery-2")]
    assert len({env["DUMONT_READY_FILE"] for env in pair}) == 2
    assert [env["DUMONT_REPLICA"] for env in pair] == ["recovery-1", "recovery-2"]


def test_everything_a_child_waits_for_is_there(layout: Layout) -> None:
    children = plan(layout, settings(), CALLER).children
    seen: set[str] = set()
    for child in children:
        assert set(child.after) <= seen
        seen.add(child.name)


def test_settings_survive_on_file(layout: Layout) -> None:
    asked = settings(replicas={"health": 2}, variables=("A",))
    write_settings(layout, asked)
    assert read_settings(layout) == asked


def test_the_next_start_keeps_ports_and_installation(layout: Layout) -> None:
    chosen = control.choose_ports(
        layout, endpoint_host=LOOPBACK, api_port=None, endpoint_ports=None
    )
    write_settings(layout, chosen)
    again = control.choose_ports(layout, endpoint_host=LOOPBACK, api_port=None, endpoint_ports=None)
    assert again == chosen


def test_a_kept_endpoint_port_that_is_taken_is_an_error(layout: Layout) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        write_settings(layout, settings(endpoint_ports=(port, port)))
        with pytest.raises(CliError, match=f"port {port} .* in use"):
            control.choose_ports(layout, endpoint_host=LOOPBACK, api_port=None, endpoint_ports=None)


@fault(51)
def test_two_installations_never_look_like_each_other() -> None:
    first, second = control.new_installation(), control.new_installation()
    assert "-" not in first + second
    assert not second.startswith(f"{first}-")


def test_free_ports_are_below_those_of_outgoing_connections() -> None:
    first = free_block(LOOPBACK, 10)
    assert 20_000 <= first <= 32_000


def test_a_range_may_be_one_port() -> None:
    assert parse_range("20000-20009") == (20000, 20009)
    assert parse_range("20000") == (20000, 20000)


@pytest.mark.parametrize(
    ("dsn", "printed"),
    [
        (
            "postgresql+asyncpg://dumont_reader@127.0.0.1:20003/dumont",
            "postgresql://dumont_reader:pw@127.0.0.1:20003/dumont",
        ),
        (
            "postgresql+asyncpg://dumont_reader@/dumont?host=/run",
            "postgresql://dumont_reader:pw@/dumont?host=/run",
        ),
    ],
)
def test_the_printed_dsn_is_one_that_any_client_takes(dsn: str, printed: str) -> None:
    assert with_password(dsn, "pw") == printed


def test_the_state_directory_follows_the_user() -> None:
    assert default_dir({}, 0) == Path("/var/lib/dumont-failover")
    assert default_dir({"XDG_STATE_HOME": "/s"}, 1000) == Path("/s/dumont-failover")


def test_a_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(CliError, match="cannot use"):
        control.prepare_directory(Layout.of(blocked / "stack"))
    assert list(tmp_path.iterdir()) == [blocked]
