"""Tests of the HTTP API, over its routes, against a real database and broker."""
