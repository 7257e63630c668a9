"""Tests of API keys against a real database."""
