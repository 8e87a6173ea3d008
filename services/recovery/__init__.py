"""Recovery: decides, and alone writes the log.

Hears the inbox (what health and sync saw, what people asked through the api). Says everything that
is in the log. Owns machines, endpoint and certificates.
"""
