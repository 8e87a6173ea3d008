"""The documents that are read off the code say what the code says."""

import json
import re
from pathlib import Path

import pytest

from shared.events import EVENTS, SPEAKER

ROOT = Path(__file__).resolve().parents[3]


def section(event: str) -> str:
    text = (ROOT / "docs" / "events.md").read_text()
    found = re.search(rf"^### {event}$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/events.md has no section on {event}"
    return found[1]


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_says_where_it_is_declared_who_says_and_who_hears_it(event: str) -> None:
    about = section(event)
    assert "- declared: `shared/events/" in about
    assert f"- said by: {SPEAKER[event]}" in about
    assert "- heard by: " in about


@pytest.mark.parametrize(
    "event",
    ["HealthFailed", "ThresholdReached", "FailoverCompleted", "GpuProvisioned", "RestoreDone"],
)
def test_the_five_named_events_name_the_files_of_both_ends(event: str) -> None:
    about = section(event)
    files = re.findall(r"`(services/[^`]+)`", about)
    assert files and all((ROOT / file).exists() for file in files)
    assert re.search(r"- heard by: (recovery|api|sync) in ", about)


def test_the_openapi_document_describes_every_path_of_the_contract() -> None:
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    for path in (
        "/v1/workspaces",
        "/v1/workspaces/{name}",
        "/v1/workspaces/{name}/timeline",
        "/v1/workspaces/{name}/generations",
        "/v1/workspaces/{name}/failover",
        "/v1/operations/{identity}",
        "/v1/events",
        "/v1/stream",
        "/healthz",
        "/readyz",
    ):
        assert path in paths


def test_the_asyncapi_document_has_a_channel_a_message_and_a_schema_for_every_event() -> None:
    document = json.loads((ROOT / "docs" / "asyncapi.json").read_text())
    assert document["asyncapi"].startswith("3.")
    assert document["channels"].keys() == EVENTS.keys()
    text = json.dumps(document)
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', text):
        found = document
        for part in reference.split("/"):
            found = found[part]
