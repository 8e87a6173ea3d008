"""The gate: all that a certificate of ours can do on a host, and nothing else.

sshd runs it as the forced command of each key line. It knows its workspace, role and epoch from
its own arguments, which the client cannot touch; the client says only which verb it wants, as
``dumont VERB`` with one JSON object on standard input. The answer is lines of JSON: any number of
``{"progress": {...}}``, and last ``{"ok": {...}}`` or ``{"error": {"code", "reason", "hint"}}``.

What the standby promises is kept here, where no service and no network can be asked for leave:

* The epoch file is the fence. Every session compares its own epoch with it under one lock, again
  before each program it starts and again when it seals. ``promote`` raises it, ends every job of
  a lower epoch and waits until none is left before it answers.
* A generation is sealed whole or not at all: copied into a directory of its own, hashed, flushed
  to disk, and moved into place only after the copying processes are seen to be gone.
* A generation shares no file with anything that can be written: people get a private copy.

It must run on whatever host was rented: the standard library and Python 3.9, packed into one file.
There these modules are a package of another name, so they import one another relatively, and all
that a session needs before it begins: the file may be replaced while the session runs.
"""
