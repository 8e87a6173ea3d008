"""The lab's clock, under the name that tests know."""

from lab.clock import START, VirtualTimeLoop, now, run

__all__ = ["START", "VirtualTimeLoop", "now", "run"]
