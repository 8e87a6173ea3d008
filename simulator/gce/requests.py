"""Reading an insert and a list filter the way Compute Engine does."""

import re
from collections.abc import Mapping
from typing import Any

from simulator.gce.errors import EngineError, invalid

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")
_LABEL = re.compile(r"[-_a-z0-9]{0,63}")
_KEY = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LEAST_DISK_GB = 10
_MOST_VALUE, _MOST_METADATA = 256 * 1024, 512 * 1024

Json = dict[str, Any]


def check_insert(body: Mapping[str, Any], zone: str) -> None:
    """Whether ``body`` is an instance that could be created in ``zone``. Raises EngineError."""
    name = str(body.get("name", ""))
    if not NAME.fullmatch(name):
        why = f"Must be a match of regex '{NAME.pattern}'"
        raise invalid("resource.name", name, why)
    kind = str(body.get("machineType", ""))
    if not re.search(rf"(^|/)zones/{re.escape(zone)}/machineTypes/[-a-z0-9]+$", kind):
        raise invalid("resource.machineType", kind, "The URL is malformed.")
    _check_disks(body.get("disks") or [])
    if not body.get("networkInterfaces"):
        raise invalid("resource.networkInterfaces", "", "At least one network interface is needed.")
    check_scheduling(body.get("scheduling") or {})
    check_labels(body.get("labels") or {})
    metadata_items(body.get("metadata") or {})


def _check_disks(disks: list[Json]) -> None:
    boot = [disk for disk in disks if disk.get("boot")]
    if len(boot) != 1:
        raise invalid("resource.disks", "", "Exactly one boot disk must be specified.")
    parameters = boot[0].get("initializeParams") or {}
    if not parameters.get("sourceImage") and not boot[0].get("source"):
        raise invalid("resource.disks[0]", "", "Boot disk must have a source specified.")
    size = str(parameters.get("diskSizeGb", _LEAST_DISK_GB))
    if not size.isdigit() or int(size) < _LEAST_DISK_GB:
        why = f"Requested disk size cannot be smaller than the image size ({_LEAST_DISK_GB} GB)"
        raise invalid("resource.disks[0].initializeParams.diskSizeGb", size, why)


def check_scheduling(scheduling: Mapping[str, Any]) -> None:
    """The rules that Spot machines have to keep. Raises EngineError."""
    spot = scheduling.get("provisioningModel") == "SPOT"
    if spot and scheduling.get("automaticRestart") is not False:
        text = "Scheduling must have preemptible be false when AutomaticRestart is true."
        raise EngineError(400, "invalid", text)
    if spot and scheduling.get("onHostMaintenance") == "MIGRATE":
        text = "Scheduling must have preemptible be false when OnHostMaintenance is MIGRATE."
        raise EngineError(400, "invalid", text)
    action = scheduling.get("instanceTerminationAction")
    if action is not None and action not in ("STOP", "DELETE"):
        raise invalid("resource.scheduling.instanceTerminationAction", action, "Unknown action.")
    if action is not None and not (spot or scheduling.get("maxRunDuration")):
        text = "instanceTerminationAction needs Spot or a maximum run duration."
        raise EngineError(400, "invalid", text)


def check_labels(labels: Mapping[str, Any]) -> None:
    """Raises EngineError for a label that is not allowed."""
    for key, value in labels.items():
        if not _KEY.fullmatch(str(key)) or not _LABEL.fullmatch(str(value)):
            why = "Only hyphens, underscores, lowercase characters, and numbers are allowed."
            raise invalid(f"resource.labels.{key}", value, why)
    if len(labels) > 64:
        raise invalid("resource.labels", len(labels), "At most 64 labels are allowed.")


def metadata_items(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as a dict. Raises EngineError when it is too large or has a key twice."""
    items: dict[str, str] = {}
    for item in metadata.get("items") or []:
        key, value = str(item.get("key", "")), str(item.get("value", ""))
        if not key or key in items:
            raise invalid("metadata.items", key, "Keys must be present and unique.")
        if len(value.encode()) > _MOST_VALUE:
            raise invalid(f"metadata.items.{key}", "...", "Value is too large: maximum size 262144")
        items[key] = value
    if sum(len(value.encode()) for value in items.values()) > _MOST_METADATA:
        raise invalid("metadata.items", "...", "Metadata is too large: maximum size 524288")
    return items


def ssh_keys(metadata: Mapping[str, str]) -> dict[str, list[str]]:
    """The public keys of each user in the ``ssh-keys`` item."""
    users: dict[str, list[str]] = {}
    if metadata.get("enable-oslogin", "").upper() == "TRUE":
        return users
    for line in metadata.get("ssh-keys", "").splitlines():
        user, colon, key = line.strip().partition(":")
        if colon and re.fullmatch(r"[a-z_][-a-z0-9_.]{0,31}", user) and len(key.split()) >= 2:
            users.setdefault(user, []).append(key)
    return users


_TERM = re.compile(
    r"""\(?\s*(?P<field>[\w.\-]+)\s*(?P<op>!=|=|:|\beq\b|\bne\b)\s*(?P<value>"[^"]*"|[^\s()]*)\s*\)?"""
)


def selects(filter: str, row: Mapping[str, Any]) -> bool:
    """Whether a list filter lets a row through; terms are joined by AND or side by side.

    Raises EngineError for what is not understood.
    """
    position = 0
    text = re.sub(r"\s+AND\s+", " ", filter.strip())
    while position < len(text):
        term = _TERM.match(text, position)
        if term is None:
            raise EngineError(400, "invalid", f"Invalid list filter expression: {filter}")
        if not _holds(term, row):
            return False
        position = term.end()
        while position < len(text) and text[position] == " ":
            position += 1
    return True


def _holds(term: "re.Match[str]", row: Mapping[str, Any]) -> bool:
    value = _field(row, term["field"])
    operand = term["value"].strip('"')
    if term["op"] == ":":
        if operand == "*":
            return value is not None
        return value is not None and str(value).startswith(operand.rstrip("*"))
    if term["op"] in ("eq", "ne"):
        equal = value is not None and re.fullmatch(operand, str(value)) is not None
        return equal is (term["op"] == "eq")
    return (str(value) == operand) is (term["op"] == "=")


def _field(row: Mapping[str, Any], path: str) -> object:
    value: object = row
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
