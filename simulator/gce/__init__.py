"""Compute Engine: virtual machines, their operations, and the API that shows them."""
