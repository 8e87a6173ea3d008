"""What the compose stack that was started from this clone has left for its person.

Its first start writes address and api key into ``deploy/run`` (or ``DUMONT_RUN_DIR``), and its
simulated clouds theirs, so that ``dumont --url URL`` finds them without being told.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

RUN_DIR = Path(__file__).resolve().parents[1] / "deploy" / "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedClouds:
    """Where the clouds of the stack's profile ``simulator`` are reached from here."""

    control_url: str
    vast_url: str
    vast_key: str = field(repr=False)


def api_key(url: str, env: Mapping[str, str]) -> str | None:
    """The key for the stack at this address; None when it is not the one started from here."""
    directory = _directory(env)
    if _document(directory / "stack.json").get("api_url") != url:
        return None
    return _text(directory / "api_key").strip() or None


def simulated_clouds(url: str, env: Mapping[str, str]) -> SimulatedClouds | None:
    """The clouds beside the stack at this address, if they were started with it."""
    if api_key(url, env) is None:
        return None
    told = _document(_directory(env) / "simulator.json")
    try:
        return SimulatedClouds(
            control_url=told["control_url"], vast_url=told["vast_url"], vast_key=told["vast_key"]
        )
    except KeyError:
        return None


def _directory(env: Mapping[str, str]) -> Path:
    return Path(env.get("DUMONT_RUN_DIR") or RUN_DIR)


def _document(path: Path) -> dict[str, str]:
    try:
        document = json.loads(_text(path) or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _text(path: Path) -> str:
    """Empty when there is none that we may read: then the key has to be given."""
    try:
        return path.read_text()
    except OSError:
        return ""
