"""How Compute Engine writes a machine: full URLs, fingerprints, addresses."""

import base64
import hashlib
import json
import secrets

from simulator.gce.operations import HOST, Json
from simulator.gce.requests import metadata_items


def fingerprint(value: object) -> str:
    """What a change of ``value`` has to show that it read."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def metadata(items: dict[str, str]) -> Json:
    """Metadata items as the API shows them."""
    rows = [{"key": key, "value": value} for key, value in items.items()]
    return {"kind": "compute#metadata", "fingerprint": fingerprint(rows), "items": rows}


def _full(reference: str, project: str) -> str:
    """A partial reference as the full URL that answers carry."""
    if reference.startswith("https://"):
        return reference
    if reference.startswith("projects/"):
        return f"{HOST}/{reference}"
    return f"{HOST}/projects/{project}/{reference}"


def instance_row(project: str, zone: str, id: str, body: Json, created: str) -> Json:
    """A new machine as the API shows it, with the defaults that its insert left open."""
    base = f"{HOST}/projects/{project}/zones/{zone}"
    labels = dict(body.get("labels") or {})
    scheduling = {"onHostMaintenance": "MIGRATE", "automaticRestart": True} | dict(
        body.get("scheduling") or {"provisioningModel": "STANDARD"}
    )
    if scheduling.get("provisioningModel") == "SPOT":
        scheduling = {"instanceTerminationAction": "STOP", "preemptible": True} | scheduling
        scheduling["onHostMaintenance"] = "TERMINATE"
    return {
        "kind": "compute#instance",
        "id": id,
        "name": body["name"],
        "status": "PROVISIONING",
        "creationTimestamp": created,
        "zone": base,
        "machineType": _full(str(body["machineType"]), project),
        "selfLink": f"{base}/instances/{body['name']}",
        "disks": [_disk_row(disk, index) for index, disk in enumerate(body["disks"])],
        "networkInterfaces": [
            _interface_row(project, one, index)
            for index, one in enumerate(body["networkInterfaces"])
        ],
        "metadata": metadata(metadata_items(body.get("metadata") or {})),
        "labels": labels,
        "labelFingerprint": fingerprint(labels),
        "tags": dict(body.get("tags") or {}),
        "scheduling": scheduling,
        "startRestricted": False,
        "deletionProtection": False,
    }


def _disk_row(disk: Json, index: int) -> Json:
    parameters = disk.get("initializeParams") or {}
    return {
        "kind": "compute#attachedDisk",
        "index": index,
        "boot": bool(disk.get("boot")),
        "autoDelete": bool(disk.get("autoDelete")),
        "diskSizeGb": str(parameters.get("diskSizeGb", 10)),
    }


def _interface_row(project: str, interface: Json, index: int) -> Json:
    accesses = [
        {"kind": "compute#accessConfig", "networkTier": "PREMIUM"} | access
        for access in interface.get("accessConfigs") or []
    ]
    row: Json = {
        "kind": "compute#networkInterface",
        "name": f"nic{index}",
        "network": _full(str(interface.get("network", "global/networks/default")), project),
        "networkIP": f"10.128.0.{2 + secrets.randbelow(250)}",
    }
    return row | ({"accessConfigs": accesses} if accesses else {})


def set_nat_ip(row: Json, address: str | None) -> None:
    """Show the external address on the first interface, or none."""
    for interface in row["networkInterfaces"][:1]:
        for access in interface.get("accessConfigs", []):
            access.pop("natIP", None)
            if address is not None:
                access["natIP"] = address
