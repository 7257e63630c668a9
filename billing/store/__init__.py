"""The store: tables, and one module of queries per noun. Nothing here decides; nothing here commits."""
