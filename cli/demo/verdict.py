"""From what was measured to promises, and to the one JSON object that a program reads."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from cli.demo import judge
from cli.demo.incident import FAILOVER_SECONDS_MAX, ZOMBIE_SECONDS_MAX, Measured
from cli.demo.options import Options
from shared.machines import WorkspaceName

Json = dict[str, Any]


def promises(measured: Measured, slower: float = 1.0) -> list[judge.Promise]:
    """Of one workspace that lost its GPU. Each held only if it was measured.

    ``slower``: how much more time each gets where many simulated machines share the processors.
    """
    serves_within = FAILOVER_SECONDS_MAX * slower
    return [
        judge.at_most(
            f"the standby serves within {serves_within:g} s of the threshold",
            measured.failover_seconds,
            serves_within,
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
        *_about_money(measured),
        judge.at_most(
            "a GPU that comes back is destroyed at once",
            measured.zombie_seconds,
            ZOMBIE_SECONDS_MAX * slower,
            "s",
        ),
        _about_identity(measured),
    ]


def promises_in_silence(measured: Measured) -> list[judge.Promise]:
    """Of one workspace that nobody heard from, and that nothing had happened to."""
    told = None if measured.told_seconds is None else 1
    return [
        judge.exactly("nothing was rented", measured.rented, 0, "machines"),
        judge.exactly("nothing was given up", measured.given_up, 0, "events"),
        judge.exactly("people were told", told, 1, "times"),
        judge.exactly(
            "every acknowledged write is on the GPU",
            _count(measured.lost_writes),
            0,
            "writes lost",
        ),
        *_about_money(measured),
        _about_identity(measured),
    ]


def _about_money(measured: Measured) -> list[judge.Promise]:
    bill = measured.bill
    gpus = None if bill is None else bill.gpus_now
    double = None if bill is None else bill.double_seconds
    return [
        judge.exactly("one GPU is billed at the end", gpus, 1, "GPUs"),
        judge.exactly("no two GPUs were rented at once", double, 0, "s"),
    ]


def _about_identity(measured: Measured) -> judge.Promise:
    return judge.exactly(
        "the address never showed a foreign identity",
        len(measured.identity_warnings),
        0,
        "warnings",
    )


def as_json(
    measured: Mapping[WorkspaceName, Measured],
    timelines: Mapping[WorkspaceName, list[Json]],
    bill: judge.Bill,
    options: Options,
) -> Json:
    """The contract's object: exit code 0 exactly if ``ok``. With several workspaces the figures
    are the slowest's and the totals, and ``workspaces`` has one such object for each.
    """
    judge_one = promises_in_silence if options.silence else partial(promises, slower=options.slower)
    each = [_of_one(name, m, judge_one(m)) for name, m in measured.items()]
    if len(each) == 1:
        return {**each[0], "timeline": timelines[each[0].pop("name")]}
    judged = [_of_all(list(same)) for same in zip(*map(judge_one, measured.values()), strict=True)]
    judged.append(
        judge.exactly("as many GPUs are billed as workspaces", bill.gpus_now, len(each), "GPUs")
    )
    return {
        "ok": all(one["ok"] for one in each) and all(promise.held for promise in judged),
        "failure": "; ".join(f"{one['name']}: {one['failure']}" for one in each if one["failure"]),
        "promises": [promise.as_json() for promise in judged],
        **{figure: _over(max, each, figure) for figure in SLOWEST},
        **{figure: _over(sum, each, figure) for figure in TOTALS},
        "machines_billed": bill.gpus_now,
        "zombie_billed_seconds": _rounded(bill.zombie_seconds),
        "usd_billed": round(bill.usd, 6),
        "restore_verified": all(one["restore_verified"] for one in each),
        "workspaces": each,
        "timeline": sorted(
            ({**entry, "workspace": name} for name, told in timelines.items() for entry in told),
            key=lambda entry: str(entry["at"]),
        ),
    }


SLOWEST = (
    "detection_seconds",
    "failover_seconds",
    "recovery_seconds",
    "failback_pause_seconds",
    "told_seconds",
)
TOTALS = ("lost_files", "lost_bytes", "lost_writes_at_failback", "double_billed_seconds")


def _of_one(name: WorkspaceName, measured: Measured, judged: Sequence[judge.Promise]) -> Json:
    bill, lost = measured.bill, measured.lost
    return {
        "name": name,
        "ok": not measured.failure and all(promise.held for promise in judged),
        "failure": measured.failure,
        "promises": [promise.as_json() for promise in judged],
        "detection_seconds": _rounded(measured.detection_seconds),
        "failover_seconds": _rounded(measured.failover_seconds),
        "lost_files": lost.files if lost else None,
        "lost_bytes": lost.bytes if lost else None,
        "recovery_seconds": _rounded(measured.recovery_seconds),
        "failback_pause_seconds": _rounded(measured.pause_seconds),
        "told_seconds": _rounded(measured.told_seconds),
        "lost_writes_at_failback": _count(measured.lost_writes),
        "machines_billed": bill.gpus_now if bill else None,
        "double_billed_seconds": _rounded(bill.double_seconds) if bill else None,
        "zombie_billed_seconds": _rounded(bill.zombie_seconds) if bill else None,
        "usd_billed": round(bill.usd, 6) if bill else None,
        "restore_verified": measured.restore_differs == [],
    }


def _of_all(same: Sequence[judge.Promise]) -> judge.Promise:
    """One promise to many workspaces is held when it was held to each: shown is the worst."""
    return max(same, key=lambda promise: (not promise.held, promise.value))


def _over(fold: Any, each: Iterable[Json], figure: str) -> Any:
    """A figure over all workspaces; None when one of them has none."""
    values = [one[figure] for one in each]
    return None if None in values else _rounded(fold(values))


def _count(found: list[Any] | None) -> int | None:
    return None if found is None else len(found)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
