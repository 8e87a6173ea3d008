"""Sync, the data plane: copies, seals and restores, each in the epoch that the assignment names.

Hears assignments. Says SyncCompleted, SyncFailed, GenerationHeld, RestoreProgressed, RestoreDone
and RestoreFailed, and each copy and progress sample as telemetry. Keeps nothing: the standby's
store is the memory, and what is said twice after a restart carries the same event id.
"""
