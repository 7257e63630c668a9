"""The business: what is charged, to whom, when, and the proof of it."""
