"""Bugs planted on purpose: a promise whose breaking no test notices is not kept by any."""
