"""The settings of three tiers: their names and shapes, their tables, and how the tiers are merged."""
