"""Two recoveries run and one acts: whatever becomes of that one, the other goes on in its place."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.blackhole import BlackHole, black_hole
from tests.support.faults import fault
from tests.support.stack import FAST, Json, Stack, stack
from tests.support.waiting import eventually

TAKEOVER_SECONDS_MAX = 10.0
NAME = "train"

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="simulated machines are namespaces: root only"),
]


class Pair:
    """A stack with two recoveries that reach Postgres and NATS through proxies of ours."""

    def __init__(self, running: Stack, lines: tuple[BlackHole, ...]) -> None:
        self.stack = running
        self._lines = lines

    def acting(self) -> tuple[str, int, int]:
        """Who holds the lease: its name, its process id and its term."""
        (row,) = self.stack.query("SELECT holder, term FROM writer_lease")
        process = self.stack.child(row["holder"]).process
        assert process is not None
        return row["holder"], process.pid, row["term"]

    def term(self) -> int:
        """The newest term that was ever taken."""
        (row,) = self.stack.query("SELECT term FROM writer_lease")
        return int(row["term"])

    def cut_off(self, pid: int) -> None:
        """No byte passes between this process and the servers any more."""
        for line in self._lines:
            assert line.cut(pid) > 0, "it has a connection to lose"

    def records_after(self, position: int) -> list[Json]:
        sql = """SELECT position, type, recorded_at, (metadata->>'term')::int AS term
                   FROM event_log WHERE position > $1 ORDER BY position"""
        return [dict(row) for row in self.stack.query(sql, position)]

    def head(self) -> int:
        (row,) = self.stack.query("SELECT max(position) AS head FROM event_log")
        return int(row["head"])

    def now(self) -> datetime:
        """By the clock that the records are stamped with: all of it runs on this machine."""
        (row,) = self.stack.query("SELECT clock_timestamp() AS now")
        moment: datetime = row["now"]
        return moment

    def lose_the_gpu(self) -> None:
        gpu = self.stack.state(NAME)["primary"]["id"]
        self.stack.clouds.happen(self.stack.clouds.machine(gpu)["id"], "outbid", form="B")

    def until_recovered(self, position: int) -> None:
        def recovered() -> bool:
            types = {record["type"] for record in self.records_after(position)}
            return "RecoveryCompleted" in types and self.stack.state(NAME)["phase"] == "SYNCING"

        eventually(recovered)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("takeover")
    settings = directory / "stack" / "stack.json"

    def port_of(server: str) -> int:
        return int(json.loads(settings.read_text())[f"{server}_port"])

    with ExitStack() as stacked:
        postgres = stacked.enter_context(black_hole(lambda: port_of("postgres")))
        nats = stacked.enter_context(black_hole(lambda: port_of("nats")))
        password = directory / "stack" / "secrets" / "postgres_recovery"
        dsn = f"postgresql+asyncpg://dumont_recovery@127.0.0.1:{postgres.port}/dumont"
        through = {
            "DUMONT_NATS_URL": f"nats://127.0.0.1:{nats.port}",
            "DUMONT_LOG_DSN": dsn,
            "DUMONT_LOG_PASSWORD_FILE": str(password),
        }
        named = [part for name, value in through.items() for part in ("--env", f"{name}={value}")]
        running = stacked.enter_context(
            stack(directory, "--replicas", "recovery=2", *named, variables=FAST)
        )
        found = Pair(running, (postgres, nats))
        running.register(NAME, origin="empty")
        found.until_recovered(0)
        yield found


def _kill(pair: Pair, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _leave_stopped(pair: Pair, pid: int) -> None:
    """It was stopped at its place already, and is resumed when the other has finished."""


def _cut_off(pair: Pair, pid: int) -> None:
    pair.cut_off(pid)
    os.kill(pid, signal.SIGCONT)


WAYS = {
    "kill -9": ("call.after:vast.create", _kill),
    "SIGSTOP": ("call.before:vast.create", _leave_stopped),
    "a silent cut": ("effect.before:RentGpu", _cut_off),
}


KILLED = pytest.param("kill -9", marks=pytest.mark.full)  # the crash matrix kills more often


@fault(17)
@fault(46)
@fault(47)
@pytest.mark.parametrize("way", ["SIGSTOP", "a silent cut", KILLED])
def test_the_other_takes_over_within_seconds_and_nothing_is_done_twice(
    pair: Pair, way: str
) -> None:
    place, happen = WAYS[way]
    begun = pair.head()
    pair.stack.arm(place, "stop")
    pair.lose_the_gpu()
    eventually(lambda: not pair.stack.armed())
    holder, pid, term = pair.acting()
    eventually(lambda: _stopped(pid))
    at = pair.now()
    happen(pair, pid)

    eventually(lambda: pair.term() > term)
    assert (pair.now() - at).total_seconds() < TAKEOVER_SECONDS_MAX, "with the defaults"
    eventually(lambda: _first_of_a_later_term(pair, begun, term))
    pair.until_recovered(begun)
    if way == "SIGSTOP":
        assert pair.acting()[0] != holder
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not Path(f"/proc/{pid}").exists())

    terms = [record["term"] for record in pair.records_after(begun)]
    assert terms == sorted(terms), "who was replaced wrote nothing any more"
    rented = [account["label"] for account in pair.stack.clouds.ledger()["instances"]]
    assert len(rented) == len(set(rented)), "one machine for each label"
    eventually(lambda: pair.stack.clouds.ledger()["gpus_billed_now"] == 1)
    pair.stack.dumont("log", "verify")


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _first_of_a_later_term(pair: Pair, begun: int, term: int) -> Json | None:
    later = (record for record in pair.records_after(begun) if record["term"] > term)
    return next(later, None)
