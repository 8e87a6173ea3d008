"""Words and pipes that all four services need: events, hosts, the bus, the log. No opinions."""
