"""What a check concludes from what it saw, and what is said about it."""

import itertools

import pytest

from services.health.domain.detector import (
    Brake,
    Check,
    ProviderView,
    Signals,
    Ssh,
    Subject,
    Tcp,
    Verdict,
    count,
    doubt,
    judge,
    witnessed,
)
from shared.events.health import HealthFailed, HealthRestored, ThresholdReached
from shared.machines import Host, MachineId, Role, WorkspaceName
from tests.support.faults import fault

P = ProviderView
OK, FAILED, UNKNOWN = Verdict.OK, Verdict.FAILED, Verdict.UNKNOWN

TABLE: list[tuple[str, ProviderView, Tcp, Ssh, Verdict, bool]] = [
    ("all is well", P.RUNNING, Tcp.CONNECTS, Ssh.ANSWERS, OK, False),
    ("a host of the user's own answers", P.NONE, Tcp.CONNECTS, Ssh.ANSWERS, OK, False),
    ("it answers though its provider errs", P.ERROR, Tcp.CONNECTS, Ssh.ANSWERS, OK, False),
    ("it answers, its provider does not", P.UNREACHABLE, Tcp.CONNECTS, Ssh.ANSWERS, OK, False),
    ("it answers though said to be lost", P.LOST, Tcp.CONNECTS, Ssh.ANSWERS, OK, False),
    ("it runs and is silent", P.RUNNING, Tcp.SILENT, Ssh.NOT_TRIED, FAILED, False),
    ("it runs and its sshd is silent", P.RUNNING, Tcp.CONNECTS, Ssh.SILENT, FAILED, False),
    ("a host of the user's own is silent", P.NONE, Tcp.SILENT, Ssh.NOT_TRIED, FAILED, False),
    ("silent, the provider claims nothing", P.ERROR, Tcp.SILENT, Ssh.NOT_TRIED, FAILED, False),
    ("stopped and silent", P.STOPPED, Tcp.SILENT, Ssh.NOT_TRIED, FAILED, True),
    ("stopped, and TCP not yet closed", P.STOPPED, Tcp.CONNECTS, Ssh.UNKNOWN, FAILED, True),
    ("gone", P.GONE, Tcp.SILENT, Ssh.NOT_TRIED, FAILED, True),
    ("its container ended", P.FAILED, Tcp.SILENT, Ssh.NOT_TRIED, FAILED, True),
    ("lost by its provider and silent", P.LOST, Tcp.SILENT, Ssh.NOT_TRIED, FAILED, True),
    ("silence everywhere", P.UNREACHABLE, Tcp.SILENT, Ssh.NOT_TRIED, UNKNOWN, False),
    ("our login is refused", P.RUNNING, Tcp.CONNECTS, Ssh.UNKNOWN, UNKNOWN, False),
    ("we have no certificate", P.RUNNING, Tcp.CONNECTS, Ssh.NOT_TRIED, UNKNOWN, False),
    ("no certificate, an unclear host", P.LOST, Tcp.CONNECTS, Ssh.NOT_TRIED, UNKNOWN, False),
    ("we cannot open a socket", P.RUNNING, Tcp.UNKNOWN, Ssh.NOT_TRIED, UNKNOWN, False),
]


@fault(55, 59)
@pytest.mark.parametrize("case", TABLE, ids=[case[0] for case in TABLE])
def test_a_check_where(case: tuple[str, ProviderView, Tcp, Ssh, Verdict, bool]) -> None:
    _, provider, tcp, ssh, verdict, positive = case
    check = judge(Signals(provider=provider, tcp=tcp, ssh=ssh))
    assert (check.verdict, check.positive) == (verdict, positive)
    assert check.reason
    assert len(check.evidence) == 2


@pytest.mark.parametrize("signals", [*itertools.product(ProviderView, Tcp, Ssh)])
def test_a_failure_always_rests_on_silence_or_on_the_providers_word(
    signals: tuple[ProviderView, Tcp, Ssh],
) -> None:
    provider, tcp, ssh = signals
    seen = Signals(provider=provider, tcp=tcp, ssh=ssh)
    check = judge(seen)
    said_so = provider in {P.STOPPED, P.FAILED, P.GONE}
    if check.verdict is FAILED:
        assert seen.silent or said_so
    if check.positive:
        assert said_so or provider is P.LOST


def test_the_reason_carries_the_providers_own_words() -> None:
    check = judge(
        Signals(provider=P.STOPPED, provider_text="outbid", tcp=Tcp.SILENT, ssh=Ssh.NOT_TRIED)
    )
    assert check.reason == "the provider says: outbid"
    assert check.evidence == ("provider: stopped (outbid)", "tcp: silent, ssh: not tried")


SILENCE = Check(verdict=FAILED, reason="silent")
PROOF = Check(verdict=FAILED, reason="outbid", positive=True)
WELL = Check(verdict=OK, reason="answers")


@fault(53)
def test_when_all_of_three_hosts_are_silent_at_once_it_is_our_network() -> None:
    check = witnessed(SILENCE, [SILENCE, SILENCE, SILENCE], Brake())
    assert check.verdict is UNKNOWN
    assert "our own network" in check.reason


@pytest.mark.parametrize(
    "latest", [[SILENCE, SILENCE], [SILENCE, SILENCE, WELL], [SILENCE, SILENCE, PROOF]]
)
def test_silence_counts_while_a_witness_answers_or_the_hosts_are_few(latest: list[Check]) -> None:
    assert witnessed(SILENCE, latest, Brake()).verdict is FAILED


@fault(53)
def test_the_providers_word_is_never_held_back_by_the_brake() -> None:
    assert witnessed(PROOF, [PROOF, SILENCE, SILENCE], Brake(share=0.5)).verdict is FAILED


def test_the_share_that_pulls_the_brake_is_a_setting() -> None:
    latest = [SILENCE, SILENCE, SILENCE, WELL]
    assert witnessed(SILENCE, latest, Brake(share=0.75)).verdict is UNKNOWN
    assert witnessed(SILENCE, latest, Brake(share=0.8)).verdict is FAILED


HOST = Host(id=MachineId("gpu-1"), provider="vast", provider_id="1", address="127.0.0.1", port=22)
SUBJECT = Subject(workspace=WorkspaceName("train"), epoch=3, host=HOST, role=Role.GPU)
DOUBT = Check(verdict=UNKNOWN, reason="no certificate")


def told(*checks: Check, threshold: int = 3) -> list[str]:
    """What is said over a series of checks, in short."""
    said, failures = [], 0
    for check in checks:
        failures, events = count(failures, check, subject=SUBJECT, threshold=threshold)
        for event in events:
            match event:
                case HealthFailed():
                    said.append(f"failed {event.failures}")
                case ThresholdReached():
                    said.append(f"threshold {event.failures}")
                case HealthRestored():
                    said.append(f"restored after {event.failures_before}")
    return said


@fault(1)
def test_three_failures_in_a_row_reach_the_threshold() -> None:
    assert told(SILENCE, SILENCE, SILENCE) == ["failed 1", "failed 2", "failed 3", "threshold 3"]


def test_the_threshold_is_said_again_while_it_lasts_and_nothing_between() -> None:
    assert told(*[SILENCE] * 9)[4:] == ["threshold 6", "threshold 9"]


def test_a_good_check_begins_the_count_anew_and_is_said_once() -> None:
    assert told(SILENCE, SILENCE, WELL, WELL, SILENCE) == [
        "failed 1",
        "failed 2",
        "restored after 2",
        "failed 1",
    ]


@fault(89)
def test_an_unknown_check_neither_counts_nor_forgives() -> None:
    assert told(SILENCE, DOUBT, SILENCE, DOUBT, SILENCE)[-1] == "threshold 3"
    assert told(*[DOUBT] * 10) == []


def doubted(*checks: Check) -> list[str]:
    said: list[str] = []
    failures = unknowns = 0
    for check in checks:
        unknowns, doubts = doubt(unknowns, check, subject=SUBJECT, threshold=3, failures=failures)
        failures, events = count(failures, check, subject=SUBJECT, threshold=3)
        said += [event.type for event in (*doubts, *events)]
    return said


@fault(53)
def test_people_are_told_once_when_nobody_can_tell_whether_a_host_lives() -> None:
    assert doubted(DOUBT, DOUBT) == []
    assert doubted(*[DOUBT] * 50) == ["HealthUnknown"]
    assert doubted(DOUBT, DOUBT, WELL, DOUBT, DOUBT) == []


@fault(53)
def test_the_end_of_a_doubt_is_told_once_too() -> None:
    assert doubted(*[DOUBT] * 5, WELL, WELL) == ["HealthUnknown", "HealthRestored"]
    after_a_failure = doubted(SILENCE, *[DOUBT] * 3, WELL)
    assert after_a_failure == ["HealthFailed", "HealthUnknown", "HealthRestored"]


def test_a_threshold_of_one_needs_one_failure() -> None:
    assert told(SILENCE, threshold=1) == ["failed 1", "threshold 1"]


def test_events_name_the_host_the_epoch_and_the_evidence() -> None:
    seen = judge(
        Signals(provider=P.STOPPED, provider_text="outbid", tcp=Tcp.SILENT, ssh=Ssh.SILENT)
    )
    _, (event,) = count(0, seen, subject=SUBJECT, threshold=3)
    assert isinstance(event, HealthFailed)
    assert (event.workspace, event.epoch, event.machine, event.role) == ("train", 3, "gpu-1", "gpu")
    assert event.evidence == seen.evidence
    _, events = count(2, seen, subject=SUBJECT, threshold=3)
    reached = events[-1]
    assert isinstance(reached, ThresholdReached)
    assert reached.positive
