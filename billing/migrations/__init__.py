"""The schema's history, as Alembic migrations, and the functions that apply it."""
