"""The event log: the only truth. Append-only, in one order, chained by hash."""
