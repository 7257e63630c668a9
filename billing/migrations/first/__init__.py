"""What the first migration makes, by noun, and frozen with it: a later change of a table is a migration of its own."""
