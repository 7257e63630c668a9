"""Tests of API keys that need no database."""
