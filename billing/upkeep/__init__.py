"""Upkeep: messages that were set aside, messages that end their worker, and when periodic work was done."""
