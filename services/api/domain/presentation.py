"""A workspace as JSON values: what ``GET /v1/workspaces/NAME`` and ``dumont state`` print.

What depends on the time of reading (lag, cost so far) is computed here, from ``now``.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from services.api.domain import wording
from services.api.domain.views import (
    BilledMachine,
    Billing,
    Failback,
    Failover,
    Generation,
    Machine,
    Phase,
    Recovery,
    Step,
    Trouble,
    WorkspaceView,
)
from shared.machines import Role

Json = dict[str, Any]

BEFORE = datetime.min.replace(tzinfo=UTC)


def as_json(view: WorkspaceView, now: datetime, *, endpoint_host: str | None = None) -> Json:
    """The state of a workspace at ``now``. Times are ISO 8601 in UTC, prices US dollars.

    ``endpoint_host`` is this installation's own and in no event; None where it is not known.
    """
    primary = view.primary
    newest = view.last_generation
    return {
        "name": view.name,
        "phase": view.phase.value,
        "step": view.step.value if view.step else None,
        "epoch": view.epoch,
        "position": view.position,
        "origin": view.origin,
        "path": view.path,
        "registered_at": wording.iso(view.registered_at),
        "changed_at": wording.iso(view.changed_at),
        "removed_at": _time(view.removed_at),
        "endpoint": {
            "host": endpoint_host,
            "port": view.endpoint_port,
            "host_ca": view.host_ca or None,
        },
        "serving": view.serving.value if view.serving else None,
        "primary": _machine(view, primary, view.serving, now),
        "standby": _machine(view, view.standby, Role.STANDBY, now),
        "candidate": _machine(view, view.candidate, Role.GPU, now),
        "sync_count": view.sync_count,
        "last_sync_time": _time(newest.completed_at if newest else None),
        "last_generation": generation_json(newest) if newest else None,
        "lag": _lag(view, now),
        "failures": primary.failures if primary else 0,
        "threshold": view.policy.failover_threshold,
        "degraded": view.degraded is not None,
        "degraded_reason": view.degraded,
        "paused": view.paused is not None,
        "paused_reason": view.paused.reason if view.paused else None,
        "halted": _trouble(view.halted),
        "recovery": _recovery(view.recovery, view),
        "failover": _failover(view.failover),
        "failback": _failback(view.failback),
        "refused": _refused(view),
        "standby_trouble": _trouble(view.standby_trouble),
        "standby_next_attempt_at": _time(view.standby_next_attempt_at),
        "incident": str(view.incident) if view.incident else None,
        "billed": [_billed(machine, now) for machine in view.billed.values()],
        "price_per_hour": round(_price_now(view), 6),
        "double_billed_seconds": round(_double_billed(view, now), 3),
        "next": next_step(view),
        "policy": _plain(asdict(view.policy)),
    }


def generation_json(generation: Generation) -> Json:
    """One sealed generation as JSON values."""
    values = asdict(generation)
    values["taken_at"] = wording.iso(generation.taken_at)
    values["completed_at"] = wording.iso(generation.completed_at)
    return values


def next_step(view: WorkspaceView) -> str | None:
    """What a person might type now, with why; None when there is nothing to do."""
    if view.halted is not None and view.phase is Phase.HALTED:
        return view.halted.hint or f"dumont recover {view.name}"
    if view.refused is not None and view.recheck_at is not None and view.refused.hint:
        return view.refused.hint
    if view.stale is not None and view.stale.hint:
        return view.stale.hint
    if view.held is not None:
        return view.held.hint
    if view.step is Step.AWAITING_UPLOAD:
        return f"the data is awaited: dumont workspace add {view.name} --from DIR uploads it"
    if view.paused is not None:
        return f"automatic failover and recovery are off: dumont resume {view.name}"
    if view.phase is Phase.ON_STANDBY and not view.policy.auto_recovery:
        return f"automatic recovery is off by policy: dumont recover {view.name}"
    return None


# --- parts ---------------------------------------------------------------------------------------


def _time(moment: datetime | None) -> str | None:
    return wording.iso(moment) if moment else None


def _plain(values: Mapping[str, Any]) -> Json:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _trouble(trouble: Trouble | None) -> Json | None:
    if trouble is None:
        return None
    return {
        "reason": trouble.reason,
        "hint": trouble.hint,
        "stage": trouble.stage,
        "at": wording.iso(trouble.at),
    }


def _machine(
    view: WorkspaceView, machine: Machine | None, role: Role | None, now: datetime
) -> Json | None:
    if machine is None or role is None:
        return None
    host = machine.host
    billed = view.billed.get(host.id)
    return {
        "id": host.id,
        "role": role.value,
        "provider": host.provider,
        "provider_id": host.provider_id,
        "host": host.address,
        "port": host.port,
        "status": _status(view, machine, role),
        "utilisation": None,  # samples, not events: who hears telemetry fills them in
        "load": None,
        "price_per_hour": host.price_per_hour,
        "cost": _cost(billed, now) if billed else 0.0,
        "failures": machine.failures,
        "description": host.description,
    }


def _status(view: WorkspaceView, machine: Machine, role: Role) -> str:
    if machine.dead:
        return "lost"
    if machine is view.candidate:
        return view.step.value if view.step else "waiting"
    if machine.failures:
        return f"failing ({machine.failures} of {view.policy.failover_threshold})"
    if role is Role.STANDBY and view.phase is Phase.FAILING_BACK:
        return "frozen" if view.step is not Step.FREEZING else "freezing"
    if view.serving is role:
        return "serving"
    return "promoting" if view.phase is Phase.FAILING_OVER else "standing by"


def _lag(view: WorkspaceView, now: datetime) -> Json:
    """What would be lost if the GPU died now. Syncs that find nothing new are recorded now and
    then only, so the seconds are an upper bound, and the bytes an estimate from the last change.
    """
    if view.serving is not Role.GPU:
        text = "the standby serves: it holds the only copy" if view.serving else "nobody serves"
        return {"seconds": None, "bytes": None, "text": text}
    if view.last_generation is None:
        return {
            "seconds": None,
            "bytes": None,
            "text": "if the GPU died now: everything, no copy is sealed yet",
        }
    failing_over = view.phase is Phase.FAILING_OVER and view.failover is not None
    until = view.failover.started_at if failing_over and view.failover else now
    equal_at = max(view.last_generation.taken_at, view.confirmed_at or BEFORE)
    seconds = max(0.0, (until - equal_at).total_seconds())
    lost = None if view.change_rate is None else round(view.change_rate * seconds)
    about = f", about {wording.size(lost)} at the last rate" if lost is not None else ""
    text = f"if the GPU died now: at most the last {wording.span(seconds)} of changes{about}"
    return {"seconds": round(seconds, 3), "bytes": lost, "text": text}


def _recovery(recovery: Recovery | None, view: WorkspaceView) -> Json | None:
    if recovery is None:
        return None
    return {
        "reason": recovery.reason,
        "started_at": wording.iso(recovery.started_at),
        "step": view.step.value if view.step else None,
        "attempt": recovery.tries,
        "attempts": max(view.policy.search_retries, recovery.tries),
        "offer": recovery.offer or None,
        "last_failure": _trouble(recovery.last_failure),
        "next_attempt_at": _time(recovery.next_attempt_at),
        "deadline": _time(recovery.deadline),
        "round": recovery.round,
        "progress": _progress(recovery),
    }


def _progress(recovery: Recovery) -> Json | None:
    done, total = recovery.bytes_done, recovery.bytes_total
    if done is None or total is None:
        return None
    percent = 100.0 if total <= 0 else round(min(100.0, 100 * done / total), 1)
    return {"bytes_done": done, "bytes_total": total, "percent": percent}


def _failover(failover: Failover | None) -> Json | None:
    if failover is None:
        return None
    return {
        "started_at": wording.iso(failover.started_at),
        "completed_at": _time(failover.completed_at),
        "reason": failover.reason,
        "seconds": failover.seconds,
        "generation": failover.generation or None,
        "generation_age_seconds": failover.generation_age_seconds,
    }


def _failback(failback: Failback | None) -> Json | None:
    if failback is None:
        return None
    return {
        "completed_at": wording.iso(failback.completed_at),
        "pause_seconds": failback.pause_seconds,
    }


def _refused(view: WorkspaceView) -> Json | None:
    if view.refused is None:
        return None
    return {
        "reason": view.refused.reason,
        "hint": view.refused.hint,
        "at": wording.iso(view.refused.at),
        "recheck_at": _time(view.recheck_at),
    }


def _billed(machine: BilledMachine, now: datetime) -> Json:
    return {
        "id": machine.id,
        "role": machine.role.value,
        "billing": machine.billing.value,
        "provider": machine.provider or None,
        "provider_id": machine.provider_id or None,
        "price_per_hour": machine.price_per_hour,
        "since": wording.iso(machine.since),
        "cost": _cost(machine, now),
    }


def _cost(machine: BilledMachine, now: datetime) -> float:
    """US dollars since it was rented, at the price it was rented at."""
    if machine.billing is Billing.REQUESTED:
        return 0.0
    hours = max(0.0, (now - machine.since).total_seconds()) / 3600
    return round(hours * machine.price_per_hour, 6)


def _double_billed(view: WorkspaceView, now: datetime) -> float:
    """Seconds with two GPUs billed at once, those that run now included."""
    since = view.double_billed_since
    running = max(0.0, (now - since).total_seconds()) if since else 0.0
    return view.double_billed_seconds + running


def _price_now(view: WorkspaceView) -> float:
    paid = {Billing.RUNNING, Billing.ENDING}
    return sum(m.price_per_hour for m in view.billed.values() if m.billing in paid)
