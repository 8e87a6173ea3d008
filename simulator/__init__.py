"""The simulated clouds: the true HTTP APIs of Vast and Compute Engine, with real machines behind.

A program of its own, beside the product: it imports nothing of ``services`` or ``shared`` and keeps
its own ledger, so that the product cannot agree with it by sharing a mistake.
"""
