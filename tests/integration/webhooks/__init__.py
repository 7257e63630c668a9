"""Tests of webhooks against a real database and a real receiver."""
