"""A real PostgreSQL 18 and a real Valkey, both from Python wheels, each on a private folder.

They serve demonstrations, development and tests; how we connect to them, or to servers elsewhere, is not decided here.
"""
