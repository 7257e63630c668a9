"""What the tests' databases have otherwise than an installation: no date on which a provider takes a model away, as
what tests find must not depend on the day on which they run; and room for more images a request than the usual two.
"""

from __future__ import annotations

from sqlalchemy import Engine, text


def keep_models(engine: Engine) -> None:
    """Let no model of this database be taken away, and ten images be asked for, and leave no trace in its history."""
    with engine.begin() as connection:
        # As a replica, the session fires no triggers.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("UPDATE ai_model_config SET deprecation_date = NULL"))
        connection.execute(text("UPDATE global_integration_settings SET max_in_article_images = 10"))
