"""Wire clients of the clouds: typed calls, typed errors, validated answers. No policy."""
