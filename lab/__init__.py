"""The simulation lab: the real services in a world of virtual time that does them all harm.

A run has a seed. From it come the faults, their times, and every latency; the same seed is the
same run to the last event. ``world`` puts a run together, ``oracle`` says what was broken.
"""
