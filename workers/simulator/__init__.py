"""A local stand-in for OpenAI's and Runware's HTTP APIs, with faults on demand and a journal of what was executed.

It serves 127.0.0.1 only, accepts only keys that begin with `sim-`, and never runs unless it is started on purpose
(`python -m workers.simulator`).
"""
