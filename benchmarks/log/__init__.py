"""The event log beside the Postgres recorder of the library ``eventsourcing``."""
