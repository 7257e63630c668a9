"""Dates on which providers take models away: what tests find must not depend on the day on which they run."""

from __future__ import annotations

from sqlalchemy import Engine, text


def keep_models(engine: Engine) -> None:
    """Let no model of this database be taken away, and leave no trace of that in its history."""
    with engine.begin() as connection:
        # As a replica, the session fires no triggers.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("UPDATE ai_model_config SET deprecation_date = NULL"))
