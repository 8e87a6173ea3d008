"""From what was measured to promises, and to the one JSON object that a program reads."""

from typing import Any

from cli.demo import judge
from cli.demo.incident import FAILOVER_SECONDS_MAX, ZOMBIE_SECONDS_MAX, Measured

Json = dict[str, Any]


def promises(measured: Measured) -> list[judge.Promise]:
    """Each held only if it was measured."""
    bill = measured.bill
    return [
        judge.at_most(
            "the standby serves within 2 s of the threshold",
            measured.failover_seconds,
            FAILOVER_SECONDS_MAX,
            "s",
        ),
        judge.exactly(
            "what the standby serves is its sealed generation",
            _count(measured.standby_differs),
            0,
            "files differing",
        ),
        judge.exactly(
            "what is on the new GPU is what was on the standby",
            _count(measured.restore_differs),
            0,
            "files differing",
        ),
        judge.exactly(
            "every write acknowledged by the standby is on the new GPU",
            _count(measured.lost_writes),
            0,
            "writes lost",
        ),
        judge.exactly(
            "one GPU is billed at the end", None if bill is None else bill.gpus_now, 1, "GPUs"
        ),
        judge.exactly(
            "no two GPUs were rented at once", None if bill is None else bill.double_seconds, 0, "s"
        ),
        judge.at_most(
            "a GPU that comes back is destroyed at once",
            measured.zombie_seconds,
            ZOMBIE_SECONDS_MAX,
            "s",
        ),
        judge.exactly(
            "the address never showed a foreign identity",
            len(measured.identity_warnings),
            0,
            "warnings",
        ),
    ]


def as_json(measured: Measured, timeline: list[Json]) -> Json:
    """The contract's object: exit code 0 exactly if ``ok``."""
    judged = promises(measured)
    bill, lost = measured.bill, measured.lost
    return {
        "ok": not measured.failure and all(promise.held for promise in judged),
        "failure": measured.failure,
        "promises": [promise.as_json() for promise in judged],
        "detection_seconds": _rounded(measured.detection_seconds),
        "failover_seconds": _rounded(measured.failover_seconds),
        "lost_files": lost.files if lost else None,
        "lost_bytes": lost.bytes if lost else None,
        "recovery_seconds": _rounded(measured.recovery_seconds),
        "failback_pause_seconds": _rounded(measured.pause_seconds),
        "lost_writes_at_failback": _count(measured.lost_writes),
        "machines_billed": bill.gpus_now if bill else None,
        "double_billed_seconds": _rounded(bill.double_seconds) if bill else None,
        "zombie_billed_seconds": _rounded(bill.zombie_seconds) if bill else None,
        "usd_billed": round(bill.usd, 6) if bill else None,
        "restore_verified": measured.restore_differs == [],
        "timeline": timeline,
    }


def _count(found: list[Any] | None) -> int | None:
    return None if found is None else len(found)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
