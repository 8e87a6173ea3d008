"""What a demo can be told, and the two paces that it runs at."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from cli.errors import UsageError

SERVICES = ("health", "sync", "recovery", "api")

FAULTS: dict[str, str] = {
    "ssh-never-comes": "the first new GPU runs, but nobody ever answers on it",
    "offer-vanishes": "the chosen offer is taken by somebody else first",
    "create-answer-lost": "the market rents us a GPU and the answer gets lost",
    "haproxy-restart": "the load balancer dies while the standby serves",
    "zombie-early": "the market runs the lost GPU again during the recovery",
    "silence": "no GPU, no standby and no cloud answers any more: our own network is down",
    "silence-alone": "every GPU falls silent while the market says that all run (5 or more)",
    **{f"crash:{service}": f"kill -9 of {service} in the middle of it" for service in SERVICES},
}
SABOTAGES: dict[str, str] = {
    "skip-file": "one file of the restore goes missing on the new GPU",
    "rent-twice": "somebody rents a second GPU on the account",
    "leave-endpoint": "the load balancer says that it switched, and did not",
    "drop-last-delta": "what was written just before the failback is cut off",
}
SILENCES = ("silence", "silence-alone")
SILENCE_ALONE_MIN = 5
"""One GPU that is silent alone is dead, and rightly failed over; many at once are not."""
MARKET_FAULTS = ("ssh-never-comes", "offer-vanishes", "create-answer-lost")

FAST_POLICY: dict[str, float] = {
    "sync_interval": 1.0,
    "health_interval": 0.4,
    "probe_timeout": 1.5,
    "cooldown": 0.0,
    "ssh_timeout": 12.0,
    "restore_timeout": 90.0,
    "freeze_bound": 5.0,
    "freeze_timeout": 20.0,
    "search_retry_wait": 0.5,
}
FLEET_SLOWER = 0.6
"""Each further workspace makes the intervals so much of themselves longer: what looks after ten
shares the same few processors with ten."""
FAST_ENVIRONMENT: dict[str, str] = {
    "DUMONT_DRIVE_INTERVAL": "0.2",
    "DUMONT_SWEEP_INTERVAL": "0.5",
    "DUMONT_POLL_INTERVAL": "0.3",
    "DUMONT_SETTLE_SECONDS": "3",
    "DUMONT_LEASE_SECONDS": "3",
    "DUMONT_PROVIDER_PACE": "0.02",
}
LOOKING = ("DUMONT_SWEEP_INTERVAL", "DUMONT_POLL_INTERVAL")
"""Of these the intervals at which somebody is asked again and again."""
DEMO_ENVIRONMENT: dict[str, str] = {
    # The simulated standby uses this machine's rsync, whatever its age, and the simulated GPUs
    # are no strangers.
    "DUMONT_RSYNC_OLDEST": "3.1.3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``patience`` is how many seconds each chapter may take before the demo counts as failed."""

    workspace: Path | None = None
    workspaces: int = 1
    keep: bool = False
    real_time: bool = False
    fault: str | None = None
    sabotage: str | None = None
    big_file_bytes: int
    small_files: int
    dir: Path | None = None
    control_url: str | None = None
    policy: dict[str, float] = field(default_factory=dict)

    @property
    def patience(self) -> float:
        if self.real_time:
            return 1800.0
        return (40.0 if self.sabotage else 90.0) * self.slower

    @property
    def slower(self) -> float:
        """How much longer everything takes than with one workspace."""
        return 1.0 + FLEET_SLOWER * (self.workspaces - 1)

    @property
    def policy_of_each(self) -> dict[str, object]:
        """The policy that every workspace of the demo is registered with."""
        fast = {} if self.real_time else {k: v * self.slower for k, v in FAST_POLICY.items()}
        return {**fast, **self.policy}

    @property
    def environment(self) -> dict[str, str]:
        """The services' settings for this pace."""
        if self.real_time:
            return DEMO_ENVIRONMENT
        slower = {name: f"{float(FAST_ENVIRONMENT[name]) * self.slower:g}" for name in LOOKING}
        return {**FAST_ENVIRONMENT, **slower, **DEMO_ENVIRONMENT}

    @property
    def silence(self) -> str | None:
        """How everybody falls silent, when that is the story."""
        return self.fault if self.fault in SILENCES else None

    def of_one(self, number: int) -> "Options":
        """What one workspace of the fleet meets: a silence is everybody's, other troubles come
        once, to the first.
        """
        return self if number == 0 or self.silence else replace(self, fault=None, sabotage=None)


def checked(options: Options) -> Options:
    """Raises UsageError that lists what there is."""
    for kind, given, known in (
        ("fault", options.fault, FAULTS),
        ("sabotage", options.sabotage, SABOTAGES),
    ):
        if given is not None and given not in known:
            listed = "\n".join(f"  {name:20} {meaning}" for name, meaning in known.items())
            raise UsageError(f"--{kind} {given!r} is not known", f"there are:\n{listed}")
    if options.fault == "silence-alone" and options.workspaces < SILENCE_ALONE_MIN:
        raise UsageError(
            f"--fault silence-alone needs {SILENCE_ALONE_MIN} workspaces: one GPU that is silent "
            "alone is dead",
            f"add --workspaces {SILENCE_ALONE_MIN}",
        )
    if options.workspace is not None and not options.workspace.is_dir():
        raise UsageError(
            f"--workspace {options.workspace} is not a directory", "give one that is there"
        )
    return options
