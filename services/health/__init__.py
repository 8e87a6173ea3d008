"""Health: is each watched host alive, as far as can be known?

Hears assignments (which hosts, at which epoch). Says HealthFailed, ThresholdReached and
HealthRestored, and single checks as telemetry. Owns the counters, in memory only: after a
restart they begin at zero, which costs at most a threshold of intervals.
"""
