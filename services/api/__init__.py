"""The front door: people and programs ask here, and read here what the log says.

Hears: the log, every event of it, read from Postgres with a role that can only SELECT.
Says:  RequestReceived, into the inbox; what becomes of it is recovery's to decide.
Owns:  nothing. All it shows is a fold of the log, made anew at every start.
"""
