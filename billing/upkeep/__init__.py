"""Upkeep: messages that were set aside, workers that were lost over a message, and when periodic work was done."""
