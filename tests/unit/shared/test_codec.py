"""What is said on the bus reads as it was meant, and nothing else reads at all."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import codec
from shared.codec import UndecodableError, decode, encode, from_data, to_cloudevent
from shared.envelope import Envelope
from shared.events.health import HealthFailed
from shared.events.recovery import FailoverCompleted, WorkspaceRegistered
from shared.machines import MachineId, Role, WorkspaceName
from shared.policy import Policy
from tests.support.faults import fault

FAILED = HealthFailed(
    workspace=WorkspaceName("train"),
    epoch=2,
    machine=MachineId("gpu"),
    role=Role.GPU,
    failures=1,
    threshold=3,
    reason="no answer",
    evidence=("tcp: refused",),
)
SAID = Envelope(
    id=UUID(int=1),
    source="health",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    event=FAILED,
    correlation=UUID(int=2),
    causation=UUID(int=3),
    position=4,
)


def said(**changes: Any) -> bytes:
    """The same on the wire, with some members replaced; None takes one away."""
    body = to_cloudevent(SAID) | changes
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


def test_what_was_encoded_reads_the_same() -> None:
    assert decode(encode(SAID)) == SAID


def test_an_event_without_place_and_cause_reads_the_same() -> None:
    plain = replace(SAID, correlation=None, causation=None, position=None)
    assert decode(encode(plain)) == plain


def test_nested_values_come_back_as_the_types_they_were() -> None:
    event = WorkspaceRegistered(
        workspace=WorkspaceName("train"),
        epoch=0,
        path="/workspace",
        origin="empty",
        policy=Policy(sync_interval=1, regions=("JP",)),
        endpoint_port=20000,
    )
    assert decode(encode(replace(SAID, event=event))).event == event


def test_the_wire_form_is_a_cloudevent() -> None:
    body = to_cloudevent(SAID)
    assert body["specversion"] == "1.0"
    assert body["type"] == "dumont.HealthFailed.v1"
    assert body["source"] == "/dumont/health"
    assert body["subject"] == "train"
    assert body["id"] == str(SAID.id)
    assert body["correlationid"] == str(SAID.correlation)
    assert (body["epoch"], body["position"]) == (2, 4)


@fault(32)
def test_fields_from_the_future_are_ignored() -> None:
    data = codec.to_data(FAILED) | {"invented_later": 1}
    assert decode(said(data=data, traceparent="00-1")).event == FAILED


def test_fields_added_since_take_their_default() -> None:
    data = codec.to_data(FAILED)
    del data["evidence"]
    event = decode(said(data=data)).event
    assert event == replace(FAILED, evidence=())


def test_an_older_version_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    def lift(data: dict[str, Any]) -> dict[str, Any]:
        return data | {"generation": data["snapshot"]}

    monkeypatch.setattr(FailoverCompleted, "version", 2)
    monkeypatch.setitem(codec.UPCASTERS, ("FailoverCompleted", 1), lift)
    old = {"workspace": "train", "epoch": 1, "standby": "s", "snapshot": "g", "seconds": 1}
    event = from_data("FailoverCompleted", 1, old)
    assert isinstance(event, FailoverCompleted)
    assert event.generation == "g"


REFUSED = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe{}",
    "no object": b"[1]",
    "endless nesting": b"[" * 100_000,
    "not a number": said(data=codec.to_data(FAILED) | {"failures": float("nan")}),
    "too large a number": b'{"data": 1e999}',
    "no type": said(type=None),
    "unknown type": said(type="dumont.Invented.v1"),
    "version from the future": said(type="dumont.HealthFailed.v2"),
    "version 0": said(type="dumont.HealthFailed.v0"),
    "no version": said(type="dumont.HealthFailed"),
    "no data": said(data=None),
    "data of another shape": said(data=[1]),
    "a missing field": said(data={"workspace": "train", "epoch": 1}),
    "a field of another type": said(data=codec.to_data(FAILED) | {"failures": "many"}),
    "an id that is none": said(id="1"),
    "a time that is none": said(time="yesterday"),
    "the subject of another": said(subject="other"),
    "no subject": said(subject=None),
    "a workspace that is no name": said(
        subject="a.>", data=codec.to_data(FAILED) | {"workspace": "a.>"}
    ),
}


@fault(31, 32)
@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_event_of_ours_is_refused_with_a_reason(body: bytes) -> None:
    with pytest.raises(UndecodableError) as refused:
        decode(body)
    assert str(refused.value)


def test_a_reason_never_repeats_the_value_that_was_wrong() -> None:
    data = codec.to_data(FAILED) | {"failures": "hunter2"}
    with pytest.raises(UndecodableError) as refused:
        decode(said(data=data))
    assert "hunter2" not in str(refused.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@fault(31)
@settings(deadline=None)
@given(st.binary())
def test_no_bytes_at_all_do_worse_than_being_refused(body: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode(body)


@settings(deadline=None)
@given(member=st.sampled_from([*to_cloudevent(SAID), "data.failures", "data.role"]), value=_JSON)
def test_no_member_of_any_shape_does_worse_than_being_refused(member: str, value: object) -> None:
    body = to_cloudevent(SAID)
    outer, _, inner = member.partition(".")
    changed = body | {outer: body[outer] | {inner: value} if inner else value}
    try:
        decode(json.dumps(changed).encode())
    except UndecodableError as refused:
        assert str(refused)
