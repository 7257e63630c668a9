"""A local stand-in for OpenAI's and Runware's HTTP APIs, with faults on demand and a journal of what was executed.

It serves 127.0.0.1 only, accepts only keys that begin with `sim-`, and never runs unless it is started on purpose.
Only its journal can be read from here; the server is started as a process (`python -m workers.simulator`).
"""

from workers.simulator.journal import Entry, Journal, read_journal

__all__ = ["Entry", "Journal", "read_journal"]
