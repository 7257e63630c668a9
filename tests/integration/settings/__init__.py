"""Tests of settings against a real database."""
