"""Who gets in, what a bad request is told, and what needs no key."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from services.api import bootstrap
from services.api.adapters.pulses import SERVICES, SILENT_AFTER
from services.api.routes import create_app
from shared import subjects
from shared.assignments import LOG_HEAD_KEY, SYSTEM_KEY
from shared.bus.memory import MemoryBus
from shared.clock import now
from shared.eventlog.memory import MemoryLog
from shared.events.recovery import RecoveryHalted
from shared.patience import Wait
from shared.pulse import Pulse, encode
from tests.support.faults import fault
from tests.unit.api.conftest import HEADERS, KEY, Stage, settings
from tests.unit.api.tale import Tale

pytestmark = pytest.mark.anyio


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY])
async def test_without_the_key_nothing_of_the_contract_is_open(stage: Stage, given: str) -> None:
    for path in ("/v1/workspaces", "/v1/events", "/v1/stream", "/v1/workspaces/none"):
        answer = await stage.http.get(path, headers={"Authorization": given})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["hint"] == "send the header Authorization: Bearer KEY"


async def test_a_key_that_is_no_ascii_is_refused_like_any_other(stage: Stage) -> None:
    answer = await stage.http.get("/v1/workspaces", headers={b"Authorization": b"Bearer \xff\xfe"})
    assert answer.status_code == 401


def test_the_key_is_not_kept_in_the_clear() -> None:
    front = bootstrap.build(settings(), MemoryBus(), MemoryLog())
    assert KEY not in repr(vars(front.keys))
    assert KEY not in repr(settings())


# --- problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/nothing", "", 404),
        ("PUT", "/v1/workspaces", "", 405),
        ("POST", "/v1/workspaces", "{", 400),
        ("POST", "/v1/workspaces", "[]", 422),
        ("GET", "/v1/events?after=-1", "", 422),
        ("GET", "/v1/events?limit=0", "", 422),
        ("GET", "/v1/events?limit=1001", "", 422),
        ("GET", "/v1/operations/7", "", 422),
        ("GET", "/v1/workspaces/%00%0a", "", 404),
        ("POST", "/v1/workspaces", 30_000 * "[", 400),
        ("POST", "/v1/workspaces", "\ud800".encode("utf-8", "surrogatepass"), 400),
        ("POST", "/v1/workspaces/train/pause", '{"reason": "a\\u001b[2J"}', 422),
        ("POST", "/v1/workspaces", '"' + 70_000 * "x" + '"', 413),
    ],
)
async def test_every_error_is_a_problem_with_a_hint(
    stage: Stage, method: str, path: str, content: str | bytes, status: int
) -> None:
    await stage.told(Tale().registered())
    answer = await stage.http.request(
        method, path, content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:dumont:problem:")
    assert problem["hint"]


@fault(92)
async def test_a_mistake_of_ours_shows_no_traceback(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(stage.front.follower.board, "workspaces", break_down)
    answer = await stage.http.get("/v1/workspaces")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:dumont:problem:internal"
    assert "secret" not in answer.text and "Traceback" not in answer.text


async def test_before_the_log_is_read_nothing_is_answered_from_the_past() -> None:
    front = bootstrap.build(settings(), MemoryBus(), MemoryLog())
    transport = httpx.ASGITransport(app=create_app(front))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        answer = await http.get("/v1/workspaces", headers=HEADERS)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503


# --- without a key -------------------------------------------------------------------------------


async def test_ready_means_that_log_and_bus_answer(stage: Stage) -> None:
    assert (await stage.http.get("/readyz")).json()["ready"] is True
    stage.bus.connected = False
    lost = await stage.http.get("/readyz")
    assert lost.status_code == 503
    assert (lost.json()["bus"], lost.json()["log"]) == (False, True)


async def test_ready_is_false_while_the_log_is_silent_and_true_again_after(stage: Stage) -> None:
    stage.log.answering = False
    stage.front.follower.nudge()
    await stage.front.follower.until(lambda _: not stage.front.follower.answering, 5)
    assert (await stage.http.get("/readyz")).json()["log"] is False
    stage.log.answering = True
    await stage.front.follower.until(lambda _: stage.front.follower.answering, 5)
    assert (await stage.http.get("/readyz")).status_code == 200


@pytest.mark.parametrize("service", SERVICES)
async def test_ready_is_false_when_a_service_was_not_heard_to_act_for_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    later = now() + SILENT_AFTER
    monkeypatch.setattr(stage.front.pulses, "_now", lambda: later)
    for other in SERVICES:
        await pulse(stage, other, acting=other != service)
    silent = await stage.http.get("/readyz")
    assert silent.status_code == 503
    assert silent.json()["acting"] == {other: other != service for other in SERVICES}
    (wait,) = silent.json()["waits"]
    assert (wait["service"], wait["what"]) == ("api", f"the {service} service")
    assert f'dumont_service_acts{{service="{service}"}} 0' in (await metrics(stage))
    await pulse(stage, service)
    assert (await stage.http.get("/readyz")).json()["waits"] == []
    assert f'dumont_service_acts{{service="{service}"}} 1' in (await metrics(stage))


async def test_what_a_service_waits_for_is_told_with_its_reason_and_since_when(
    stage: Stage,
) -> None:
    since = now() - timedelta(seconds=12)
    log = Wait(what="the event log", reason="the event log is read-only", since=since)
    later = replace(log, since=now())
    await pulse(stage, "recovery", log, replica="recovery-1")
    await pulse(stage, "recovery", later, replica="recovery-2", acting=False)
    (wait,) = (await stage.http.get("/readyz")).json()["waits"]
    assert (wait["service"], wait["what"]) == ("recovery", "the event log")
    assert wait["reason"] == "the event log is read-only"
    assert 12 <= wait["seconds"] < 60
    assert 'dumont_wait_seconds{service="recovery",what="the event log"} ' in await metrics(stage)
    await pulse(stage, "recovery", replica="recovery-1")
    await pulse(stage, "recovery", replica="recovery-2")
    assert (await stage.http.get("/readyz")).json()["waits"] == []


async def test_the_api_says_that_it_waits_for_the_log_itself(stage: Stage) -> None:
    stage.log.answering = False
    stage.front.follower.nudge()
    await stage.front.follower.until(lambda _: not stage.front.follower.answering, 5)
    (wait,) = (await stage.http.get("/readyz")).json()["waits"]
    assert (wait["service"], wait["what"]) == ("api", "the event log")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"acting": 1}', b"\xff"])
async def test_a_sign_of_life_that_is_garbage_is_none(stage: Stage, body: bytes) -> None:
    await stage.bus.publish_raw(subjects.pulse("recovery"), body)
    await stage.bus.publish_raw(subjects.pulse("stranger"), encode(Pulse(replica="", acting=True)))
    assert (await stage.http.get("/readyz")).status_code == 200


async def pulse(
    stage: Stage, service: str, *waits: Wait, acting: bool = True, replica: str = ""
) -> None:
    said = Pulse(replica=replica, acting=acting, waits=waits)
    await stage.bus.publish_raw(subjects.pulse(service), encode(said))


async def metrics(stage: Stage) -> str:
    return (await stage.http.get("/metrics")).text


async def test_readiness_names_what_recovery_is_not_configured_with(stage: Stage) -> None:
    assert (await stage.http.get("/readyz")).json()["configured"] is None
    said = {"configured": {"vast": True, "gce": False, "endpoint": True}}
    await stage.bus.put(SYSTEM_KEY, json.dumps(said).encode())
    ready = await stage.http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["not_configured"] == ["gce"]


async def test_readiness_shows_the_head_of_the_log_that_recovery_exported(stage: Stage) -> None:
    assert (await stage.http.get("/readyz")).json()["log_head"] is None
    await stage.bus.put(LOG_HEAD_KEY, b"7:00ff 2026-01-01T00:00:00+00:00")
    ready = await stage.http.get("/readyz")
    assert ready.json()["log_head"] == "7:00ff 2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"configured": 3}', b"\xff"])
async def test_readiness_stands_garbage_in_the_bucket(stage: Stage, value: bytes) -> None:
    await stage.bus.put(SYSTEM_KEY, value)
    ready = await stage.http.get("/readyz")
    assert (ready.status_code, ready.json()["configured"]) == (200, None)


async def test_metrics_count_workspaces_by_phase(stage: Stage) -> None:
    await stage.told(Tale().protected())
    text = (await stage.http.get("/metrics")).text
    assert 'dumont_workspaces{phase="SYNCING"} 1' in text
    assert f"dumont_log_position {await stage.log.head()}" in text
    assert 'dumont_epoch{workspace="train"} 1' in text
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"\})? (-?[0-9.e+-]+|NaN)')
    for row in text.splitlines():
        assert row.startswith("# ") or sample.fullmatch(row), row


async def test_answers_say_what_they_are_and_are_not_kept(stage: Stage) -> None:
    answer = await stage.http.get("/v1/workspaces")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


# --- pages ---------------------------------------------------------------------------------------


async def test_the_status_page_shows_nothing_without_a_login(stage: Stage) -> None:
    await stage.told(Tale().registered())
    page = await stage.http.get("/", headers={"Authorization": ""})
    assert "train" not in page.text
    assert 'action="/login"' in page.text


async def test_a_wrong_key_does_not_log_in(stage: Stage) -> None:
    answer = await stage.http.post("/login", content="key=wrong")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("cookie", ["", ".", "99999999999.00", "99999999999.é"])
async def test_a_made_up_session_opens_nothing(stage: Stage, cookie: str) -> None:
    await stage.told(Tale().registered())
    header = {"Cookie": f"dumont_session={cookie}".encode()}
    assert "train" not in (await stage.http.get("/", headers=header)).text  # type: ignore[arg-type]


async def test_after_the_login_the_page_shows_all_workspaces_and_what_happened(
    stage: Stage,
) -> None:
    tale = Tale().protected().lost().searching()
    tale.tell(RecoveryHalted, reason="<script>alert(1)</script>")
    await stage.told(tale)
    login = await stage.http.post("/login", content=f"key={KEY}")
    assert login.status_code == 303
    assert KEY not in login.headers["set-cookie"]
    assert "HttpOnly" in login.headers["set-cookie"]
    page = (await stage.http.get("/")).text
    assert "train" in page and "HALTED" in page and "ssh.example:20000" in page
    assert "recovery halted" in page
    assert "<script" not in page


async def test_pages_load_nothing_from_elsewhere_and_forbid_scripts(stage: Stage) -> None:
    for path in ("/", "/docs"):
        page = await stage.http.get(path)
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert not re.search(r"(src|href|action)=\"https?://", page.text)
        assert "<script" not in page.text and "style=" not in page.text


async def test_the_documentation_lists_every_path(stage: Stage) -> None:
    page = (await stage.http.get("/docs")).text
    contract = (await stage.http.get("/openapi.json")).json()
    for path in contract["paths"]:
        assert path in page
    for verb in ("failover", "recover", "failback", "pause", "resume", "accept", "uploaded"):
        assert f"/v1/workspaces/{{name}}/{verb}" in contract["paths"]
